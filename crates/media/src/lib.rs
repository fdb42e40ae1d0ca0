//! Images, video and audio: bytes in, bytes out, under limits.
