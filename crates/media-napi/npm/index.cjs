"use strict";
const { ImageProcessor, MediaError, configure, counters, defaultLimits, version } = require("./lib/engine.cjs");

exports.ImageProcessor = ImageProcessor;
exports.ImageProcessorFFI = ImageProcessor;
exports.MediaError = MediaError;
exports.configure = configure;
exports.counters = counters;
exports.defaultLimits = defaultLimits;
exports.version = version;
