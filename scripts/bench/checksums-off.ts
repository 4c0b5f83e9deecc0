/**
 * Takes the checksums out of a server, for the measurement of what they cost (checksums.ts). It is loaded in front of
 * the server by `node --import`, and is no part of the product, which has no switch for this.
 *
 * What is off: all that the addon sums. That is the data, when it arrives, when it is read from a device or the log and
 * when it is destaged; the CRC of each log record's header and descriptors, written and read; and the superblock's. What
 * is left is the work around it: sums are still put in their places, carried along and compared.
 *
 * All of these get one and the same value, so whatever is compared is equal. A volume has to be written this way to be
 * read this way.
 */
import { NO_SUM } from '../../src/base/checksum.ts';
import { addon } from '../../src/platform/addon.ts';

/** Not NO_SUM: that is not the sum of any data, and means that a block was never written. */
const SUM = NO_SUM + 1;

addon.checksum = () => SUM;
addon.checksumBlocks = (_bytes, _offset, count, sums, sumsIndex) => {
  sums.fill(SUM, sumsIndex, sumsIndex + count);
};
