//! What both daemons share: configuration files, their examples and reference, logs, readiness,
//! shutdown and the status socket.

pub mod config;
pub mod log;
pub mod reference;
mod schema;
pub mod service;
pub mod status;
