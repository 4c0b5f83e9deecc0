/** Identities of nodes, devices and clusters: 16 random bytes, written as 32 hexadecimal digits. */
import { assert } from './assert.ts';

export function identityBytes(text: string): Uint8Array {
  assert(/^[0-9a-f]{32}$/.test(text), 'an identity is 32 hexadecimal digits');
  return Uint8Array.from({ length: 16 }, (_, i) => Number.parseInt(text.slice(i * 2, i * 2 + 2), 16));
}

export function identityText(bytes: Uint8Array): string {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
}
