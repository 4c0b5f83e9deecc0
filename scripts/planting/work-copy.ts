/**
 * A copy of the checkout in which bugs are planted: sources, tests and what was compiled of them. It lies in the system's
 * temporary directory; the checkout itself is never written to.
 *
 * Invariants:
 * - The copy's compiled files are those of the checkout's present sources, but for the one bug that is planted.
 * - A bug that does not compile is an error of the list, and never counts as caught.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { type PlantedBug, plant } from './planted-bug.ts';

/** Unused names and unreachable code: a bug may well leave some behind. */
const HARMLESS_DIAGNOSTICS: ReadonlySet<number> = new Set([6133, 6192, 6196, 6198, 7027]);

export class WorkCopy {
  readonly directory: string;
  readonly #options: ts.CompilerOptions;
  readonly #clean = new Map<string, string>();

  constructor(root: string) {
    this.directory = mkdtempSync(join(tmpdir(), 'sledge-planted-'));
    for (const name of ['src', 'test', 'dist', 'package.json', 'tsconfig.json']) {
      cpSync(join(root, name), join(this.directory, name), { recursive: true });
    }
    for (const name of ['node_modules', 'build']) symlinkSync(join(root, name), join(this.directory, name));
    this.#options = compilerOptions(this.directory);
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  source(file: string): string {
    return readFileSync(join(this.directory, file), 'utf8');
  }

  /** Compiles the files as they are, the way in which bugs are compiled: what is run without a bug is built alike. */
  compileClean(files: Iterable<string>): void {
    for (const file of files) {
      const compiled = this.#compile(file, this.source(file));
      this.#clean.set(file, compiled);
      writeFileSync(this.#outputOf(file), compiled);
    }
  }

  /** Puts the bug in, until `uproot`. */
  plant(bug: PlantedBug): void {
    writeFileSync(this.#outputOf(bug.file), this.#compile(bug.file, plant(this.source(bug.file), bug)));
  }

  uproot(bug: PlantedBug): void {
    const clean = this.#clean.get(bug.file);
    if (clean === undefined) throw new Error(`${bug.file} was not compiled without a bug`);
    writeFileSync(this.#outputOf(bug.file), clean);
  }

  /** What the compiler says against each bug, as sentences. */
  typeErrors(bugs: readonly PlantedBug[]): string[] {
    const config = ts.readConfigFile(join(this.directory, 'tsconfig.json'), ts.sys.readFile);
    const { fileNames } = ts.parseJsonConfigFileContent(config.config, ts.sys, this.directory);
    let planted: { readonly path: string; readonly text: string } | undefined;
    let version = 0;
    const host: ts.LanguageServiceHost = {
      getCompilationSettings: () => ({ ...this.#options, incremental: false }),
      getScriptFileNames: () => fileNames.filter(name => name.startsWith(join(this.directory, 'src'))),
      getScriptVersion: path => (path === planted?.path ? `bug ${version}` : 'clean'),
      getScriptSnapshot: path => {
        const text = path === planted?.path ? planted.text : ts.sys.readFile(path);
        return text === undefined ? undefined : ts.ScriptSnapshot.fromString(text);
      },
      getCurrentDirectory: () => this.directory,
      getDefaultLibFileName: options => ts.getDefaultLibFilePath(options),
      fileExists: ts.sys.fileExists,
      readFile: ts.sys.readFile,
      readDirectory: ts.sys.readDirectory,
      directoryExists: ts.sys.directoryExists,
      getDirectories: ts.sys.getDirectories,
    };
    const service = ts.createLanguageService(host);
    const errors: string[] = [];
    for (const bug of bugs) {
      const path = join(this.directory, bug.file);
      planted = { path, text: plant(this.source(bug.file), bug) };
      version++;
      for (const { code, messageText } of service.getSemanticDiagnostics(path)) {
        if (HARMLESS_DIAGNOSTICS.has(code)) continue;
        errors.push(`${bug.name} does not compile: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`);
      }
    }
    service.dispose();
    return errors;
  }

  #outputOf(file: string): string {
    return join(this.directory, 'dist', file.replace(/\.ts$/, '.js'));
  }

  #compile(file: string, text: string): string {
    const { outputText, diagnostics } = ts.transpileModule(text, {
      // A file by itself does not know that its package is one of ES modules.
      compilerOptions: {
        ...this.#options,
        module: ts.ModuleKind.ESNext,
        moduleResolution: ts.ModuleResolutionKind.Bundler,
      },
      fileName: join(this.directory, file),
      reportDiagnostics: true,
    });
    const [first] = diagnostics ?? [];
    if (first !== undefined) throw new Error(`${file}: ${ts.flattenDiagnosticMessageText(first.messageText, ' ')}`);
    return outputText;
  }
}

function compilerOptions(directory: string): ts.CompilerOptions {
  const config = ts.readConfigFile(join(directory, 'tsconfig.json'), ts.sys.readFile);
  const { options, errors } = ts.convertCompilerOptionsFromJson(config.config.compilerOptions, directory);
  if (errors.length > 0)
    throw new Error(`tsconfig.json: ${ts.flattenDiagnosticMessageText(errors[0].messageText, ' ')}`);
  return { ...options, sourceMap: false };
}
