/**
 * What is known of an attached device besides what the kernel tells: kept as one small JSON file for each device by
 * `platform/attach-directory.ts`, written by the device's supervisor, read by `attach --list`, `attach --adopt` and
 * `detach`. The file outlives the supervisor, so that another one can take over.
 */

/** Where the volume is. A node of ours is asked for its address each time, since that may change with a restart. */
export type AttachTarget =
  | { readonly kind: 'volume'; readonly dataDirectory: string; readonly volume: string }
  | { readonly kind: 'uri'; readonly uri: string };

/** What the user asked for. */
export interface AttachOptions {
  readonly target: AttachTarget;
  /** How the device is called besides its path: the volume, or what stands in the URI. */
  readonly name: string;
  readonly connections: number;
  /** How long I/O waits for a lost server before it fails; null: for ever. */
  readonly deadTimeoutSeconds: number | null;
  /** When a request that has no answer is sent again. */
  readonly requestTimeoutSeconds: number;
  readonly readOnly: boolean;
  readonly tlsCertificates: string | null;
  readonly tlsPsk: string | null;
}

export interface DeviceRecord {
  readonly format: 1;
  readonly index: number;
  /** What the kernel keeps as the device's backend: tells it from another one under the same number. */
  readonly backend: string;
  readonly options: AttachOptions;
  /** When the volume was made, where that is known: another one of its name is another volume. */
  readonly volumeMade?: string | undefined;
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  /** The supervisor's process, and when it was started in the kernel's ticks, since numbers are used again. */
  readonly pid: number;
  readonly pidStart: number;
  readonly state: 'connected' | 'reconnecting';
  readonly stateSince: string;
  readonly reconnects: number;
  readonly lastError: string;
  readonly attachedAt: string;
}

export function devicePath(index: number): string {
  return `/dev/nbd${index}`;
}

/** The number of `/dev/nbdN` or `nbdN`; undefined for anything else. */
export function deviceIndex(text: string): number | undefined {
  const match = /^(?:\/dev\/)?nbd(\d{1,4})$/.exec(text);
  return match === null ? undefined : Number(match[1]);
}

/** Undefined for what is no record: a file half-written, or another version's. */
export function parseDeviceRecord(text: string): DeviceRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value) || value['format'] !== 1 || !isOptions(value['options'])) return undefined;
  const numbers = ['index', 'sizeBytes', 'transmissionFlags', 'pid', 'pidStart', 'reconnects'];
  const texts = ['backend', 'stateSince', 'lastError', 'attachedAt'];
  const state = value['state'];
  const isWhole = hold(value, numbers, isCount) && hold(value, texts, isText);
  if (!isWhole || (state !== 'connected' && state !== 'reconnecting')) return undefined;
  return value as unknown as DeviceRecord;
}

function isOptions(value: unknown): boolean {
  if (!isRecord(value) || !isTarget(value['target'])) return false;
  return (
    hold(value, ['connections', 'requestTimeoutSeconds'], isCount) &&
    hold(value, ['name'], isText) &&
    hold(value, ['deadTimeoutSeconds'], item => item === null || isCount(item)) &&
    hold(value, ['tlsCertificates', 'tlsPsk'], item => item === null || isText(item)) &&
    typeof value['readOnly'] === 'boolean'
  );
}

function isTarget(value: unknown): boolean {
  if (!isRecord(value)) return false;
  if (value['kind'] === 'uri') return isText(value['uri']);
  return value['kind'] === 'volume' && hold(value, ['dataDirectory', 'volume'], isText);
}

function hold(value: Record<string, unknown>, keys: readonly string[], is: (item: unknown) => boolean): boolean {
  return keys.every(key => is(value[key]));
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isText(value: unknown): boolean {
  return typeof value === 'string';
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
