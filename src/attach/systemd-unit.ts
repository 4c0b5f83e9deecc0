/**
 * The systemd unit that attaches a device at boot and keeps its supervisor: written by `sledge attach --persist`. Pure.
 *
 * The unit adopts a device that is attached already, so that a supervisor that was restarted takes over where the last one
 * left off. It is ready once the device is (Type=notify), and waits for that as long as it takes the server to come.
 */

/** `sledge-attach-NAME.service`; what a unit's name may not hold is escaped as systemd-escape does. */
export function unitName(name: string): string {
  const escaped = [...new TextEncoder().encode(name)].map((byte, index) => escapeByte(byte, index === 0)).join('');
  return `sledge-attach-${escaped}.service`;
}

function escapeByte(byte: number, isFirst: boolean): string {
  const character = String.fromCharCode(byte);
  if (/[A-Za-z0-9_]/.test(character) || (character === '.' && !isFirst)) return character;
  return character === '/' ? '-' : `\\x${byte.toString(16).padStart(2, '0')}`;
}

export interface UnitCommands {
  readonly name: string;
  readonly device: string;
  /** Program and arguments, not quoted yet. */
  readonly attach: readonly string[];
  readonly detach: readonly string[];
}

export function unitText(commands: UnitCommands): string {
  const { name, device, attach, detach } = commands;
  return `# Made by \`sledge attach --persist\`; \`sledge detach --forget\` removes it.
# A file system on it, in /etc/fstab: ${device} /mnt ext4 _netdev,x-systemd.requires=${unitName(name)} 0 2
[Unit]
Description=Sledge volume ${name.replaceAll('%', '%%')} on ${device}
Wants=network-online.target
After=network-online.target sledge.service
Before=remote-fs-pre.target
Wants=remote-fs-pre.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=all
ExecStartPre=-/sbin/modprobe nbd
ExecStart=${attach.map(quoted).join(' ')}
# Behind a detach by hand there is nothing left to stop.
ExecStop=-${detach.map(quoted).join(' ')}
KillMode=process
Restart=on-failure
RestartSec=2
TimeoutStartSec=infinity
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
`;
}

/** As systemd.service(5), "command lines": double quotes, with specifiers and variables escaped. */
function quoted(word: string): string {
  const escaped = word.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('%', '%%').replaceAll('$', '$$$$');
  return /^[A-Za-z0-9_@+=:,./?&-]+$/.test(escaped) ? escaped : `"${escaped}"`;
}
