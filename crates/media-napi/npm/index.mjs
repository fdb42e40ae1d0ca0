// ES module entry: the same objects as index.cjs.
import media from "./index.cjs";

export const { ImageProcessor, ImageProcessorFFI, MediaError, configure, counters, defaultLimits, version } = media;
export default media;
