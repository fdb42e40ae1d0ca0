/// <reference types="node" />
import type { Duplex } from "node:stream";
import type { MediaError as MediaErrorType } from "./index.js";

declare function sharp(input?: string | ArrayBufferView | ArrayBuffer | null, options?: sharp.SharpOptions): sharp.Sharp;

declare namespace sharp {
  type Colour = string | { r: number; g: number; b: number; alpha?: 1 };
  type Gravity =
    | "centre" | "center" | "north" | "northeast" | "east" | "southeast" | "south" | "southwest" | "west" | "northwest"
    | "top" | "right" | "bottom" | "left" | "right top" | "right bottom" | "left bottom" | "left top";

  interface SharpOptions {
    failOn?: "warning" | "error";
    limitInputPixels?: number | boolean;
    unlimited?: boolean;
    sequentialRead?: boolean;
    animated?: boolean;
    autoOrient?: boolean;
    page?: 0;
    pages?: 1 | -1;
  }
  interface ResizeOptions {
    width?: number;
    height?: number;
    fit?: "cover" | "fill" | "inside" | "outside";
    position?: Gravity | number;
    kernel?: "lanczos3";
    withoutEnlargement?: boolean;
    withoutReduction?: false;
    fastShrinkOnLoad?: true;
  }
  interface Region { left: number; top: number; width: number; height: number }
  interface JpegOptions { quality?: number; chromaSubsampling?: "4:2:0"; progressive?: false; mozjpeg?: false; optimiseCoding?: true; force?: boolean }
  interface PngOptions { compressionLevel?: number; effort?: number; adaptiveFiltering?: boolean; palette?: false; progressive?: false; force?: boolean }
  interface WebpOptions { quality?: number; lossless?: boolean; effort?: 4; alphaQuality?: 100; force?: boolean }
  interface GifOptions { effort?: number; loop?: 0; force?: boolean }
  interface OutputInfo { format: string; width: number; height: number; channels: 3 | 4; premultiplied: false; size: number; pages?: number; pageHeight?: number }
  interface Metadata {
    format: string; size: number; width: number; height: number; hasAlpha: boolean; hasProfile: boolean;
    orientation?: number; pages?: number; autoOrient: { width: number; height: number };
  }

  interface Sharp extends Duplex {
    rotate(angle?: number): this;
    autoOrient(): this;
    flip(on?: boolean): this;
    flop(on?: boolean): this;
    resize(width?: number | null, height?: number | null, options?: ResizeOptions): this;
    resize(options: ResizeOptions): this;
    extract(area: Region): this;
    flatten(options?: boolean | { background?: Colour }): this;
    toColourspace(space: "srgb"): this;
    toColorspace(space: "srgb"): this;
    timeout(options: { seconds: number }): this;
    jpeg(options?: JpegOptions): this;
    png(options?: PngOptions): this;
    webp(options?: WebpOptions): this;
    gif(options?: GifOptions): this;
    toFormat(format: "jpeg" | "jpg" | "png" | "webp" | "gif" | { id: string }, options?: JpegOptions | PngOptions | WebpOptions | GifOptions): this;
    toBuffer(options?: { resolveWithObject?: false }): Promise<Buffer>;
    toBuffer(options: { resolveWithObject: true }): Promise<{ data: Buffer; info: OutputInfo }>;
    toBuffer(callback: (error: Error | null, data: Buffer, info: OutputInfo) => void): void;
    toUint8Array(): Promise<{ data: Uint8Array; info: OutputInfo }>;
    toFile(file: string): Promise<OutputInfo>;
    toFile(file: string, callback: (error: Error | null, info: OutputInfo) => void): void;
    metadata(): Promise<Metadata>;
    metadata(callback: (error: Error | null, metadata: Metadata) => void): void;
    clone(): Sharp;
  }

  const MediaError: typeof MediaErrorType;
  /** The engine keeps no cache; there to be called. */
  function cache(options?: unknown): { memory: object; files: object; items: object };
  function concurrency(threads?: number | null): number;
  function counters(): { queue: number; process: number };
  function simd(on?: boolean): true;
  const versions: Record<string, string>;
  const format: Record<string, { id: string; input: object; output: object }>;
  const fit: Record<string, string>;
  const kernel: Record<string, string>;
  const gravity: Record<string, number>;
}

export = sharp;
