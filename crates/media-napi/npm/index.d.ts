/// <reference types="node" />
import type { Transform } from "node:stream";

/** Above 64 KiB the memory is read in place: leave it alone until the promise settles. */
export type Bytes = ArrayBufferView | ArrayBuffer | SharedArrayBuffer;
export type Input = Bytes | Blob | AsyncIterable<Uint8Array>;
export type OutputFormat = "jpeg" | "jpg" | "png" | "webp" | "gif";
export type Format = "jpeg" | "png" | "webp" | "gif" | "tiff" | "bmp" | "ico";

export interface Limits {
  /** Bytes of the input; 100 MiB. */
  bytes?: number;
  /** Pixels of a frame; 100 million. */
  pixels?: number;
  /** Frames of an animation; 1000. */
  frames?: number;
}

export interface Options {
  /** Pixels across at most (fit `inside`) or exactly. */
  maxWidth?: number;
  maxHeight?: number;
  /** `inside`: whole image, proportions kept (default). `cover`: box filled, middle kept. `exact`: box filled. */
  fit?: "inside" | "cover" | "exact";
  /** Blow a smaller image up; false. */
  enlarge?: boolean;
  /** Carry EXIF orientation out; true. */
  autoOrient?: boolean;
  /** Carried out in place of the file's own, EXIF values 1 to 8. */
  orientation?: number;
  /** The part that is kept, in pixels of the upright image. */
  crop?: { left: number; top: number; width: number; height: number };
  /** `same` (default; PNG where the source's kind is not written), `auto` (the smallest), or a kind. */
  format?: OutputFormat | "same" | "auto";
  /** 1 to 100; 85. */
  quality?: number;
  /** WebP without loss; false. */
  lossless?: boolean;
  /** All frames where the result can hold them; true. */
  animated?: boolean;
  /** Red, green, blue behind transparency where the result has none; white. */
  background?: [number, number, number];
  /** Give transparency up in every kind; false. */
  flatten?: boolean;
  /** The result has at most so many bytes: quality, then size, give way. */
  maxBytes?: number;
  limits?: Limits;
  signal?: AbortSignal;
}

export interface Info {
  format: Format;
  width: number;
  height: number;
  frames: number;
  /** The quality it took: below the wanted one if `maxBytes` asked for it. */
  quality: number;
  size: number;
  /** Milliseconds of work, without waiting. */
  elapsedMs: number;
}

export interface Result {
  data: Buffer;
  info: Info;
}

export interface Metadata {
  format: Format;
  /** As stored: `orientation` 5 to 8 swap the sides. */
  width: number;
  height: number;
  orientation: number;
  hasAlpha: boolean;
  frames: number;
  size: number;
  /** Name of the embedded ICC profile. */
  icc?: string;
  exif?: { taken?: string; make?: string; model?: string; location?: { latitude: number; longitude: number } };
}

export type ErrorCode = "unsupported" | "limit" | "broken" | "options" | "encode" | "cancelled" | "busy" | "internal";

export class MediaError extends Error {
  readonly code: ErrorCode;
  /** What is bounded, what was asked for, what is allowed: with the codes `limit` and `busy`. */
  readonly what?: string;
  readonly have?: number;
  readonly limit?: number;
}

export class ImageProcessor {
  /** `defaults`: options of every call that does not state its own. */
  constructor(defaults?: Options);
  process(input: Input, options?: Options): Promise<Result>;
  /** On this thread: the event loop waits. */
  processSync(input: Bytes, options?: Options): Result;
  fit(input: Input, box: number | { width?: number; height?: number }, options?: Options): Promise<Result>;
  convert(input: Input, format: NonNullable<Options["format"]>, options?: Options): Promise<Result>;
  metadata(input: Input, options?: { limits?: Limits; signal?: AbortSignal }): Promise<Metadata>;
  metadataSync(input: Bytes, options?: { limits?: Limits }): Metadata;
  /** The image in, the result out; emits `info` before the first byte. */
  stream(options?: Options): Transform;
}

export { ImageProcessor as ImageProcessorFFI };

/** Threads (0: as many as cores) and pixels in work together, for the whole process; answers what holds now. */
export function configure(options?: { threads?: number; pixels?: number }): { threads: number; pixels: number };
/** Calls that wait, calls that are worked on. */
export function counters(): { waiting: number; running: number };
export const defaultLimits: Required<Limits>;
export const version: string;
