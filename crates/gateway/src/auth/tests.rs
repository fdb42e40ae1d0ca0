//! Replays recorded handshakes of the original, and tests of the advisories that concern this surface.

mod advisories;
mod life;
mod replay;
mod support;
mod upstream;
