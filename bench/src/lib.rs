//! What the load generator `ws-load` is made of. It shares the machine with the server it measures, so the paths
//! taken per request parse no JSON, allocate nothing and encode no frame: requests are encoded once, before the run.

pub mod client;
pub mod device;
pub mod frame;
pub mod histogram;
pub mod modes;
pub mod process;
