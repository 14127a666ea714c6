//! What both daemons share: configuration files, their examples and reference, logs, readiness,
//! shutdown and the control socket.

pub mod config;
pub mod control;
pub mod log;
pub mod reference;
mod schema;
pub mod service;
