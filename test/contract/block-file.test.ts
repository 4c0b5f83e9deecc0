/** The block files of the platform, on either ring and in either mode, held to the contract. */
import type { OpenFileOptions } from '../../src/platform/io-platform.ts';
import { createIoPlatform } from '../../src/platform/platform.ts';
import { type BlockFileFactory, blockFileContract } from './block-file-contract.ts';
import { IO_KINDS, temporaryFolder } from './io-support.ts';

for (const kind of IO_KINDS) {
  for (const mode of ['direct', 'buffered'] as const) {
    blockFileContract(`a ${mode} file on ${kind}`, platformFile(kind, mode));
  }
}

function platformFile(kind: (typeof IO_KINDS)[number], mode: OpenFileOptions['mode']): BlockFileFactory {
  return async sizeBytes => {
    const folder = temporaryFolder();
    const platform = createIoPlatform({ kind });
    const file = await platform.openFile({ path: folder.join('file'), mode, create: 'exclusive', durableWrites: true });
    await file.resize(sizeBytes);
    return {
      file,
      memory: platform,
      async cleanUp() {
        await file.close();
        await platform.close();
        folder.remove();
      },
    };
  };
}
