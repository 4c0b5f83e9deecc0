/** Every bug that `scripts/planted-bugs` plants. */
import { HEAD_BUGS } from './head-bugs.ts';
import { LOG_BUGS } from './log-bugs.ts';
import type { PlantedBug } from './planted-bug.ts';
import { VOLUME_BUGS } from './volume-bugs.ts';

export const ALL_BUGS: readonly PlantedBug[] = [...LOG_BUGS, ...HEAD_BUGS, ...VOLUME_BUGS];
