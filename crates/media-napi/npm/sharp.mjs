// ES module entry of the front in the shape of sharp.
import sharp from "./sharp.cjs";

export default sharp;
export const { MediaError, cache, concurrency, counters, simd, versions, format, fit, kernel, gravity } = sharp;
