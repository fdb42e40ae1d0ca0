import sharp = require("./sharp.js");
export default sharp;
