//! What both daemons share: configuration files, their examples and reference, logs, readiness,
//! shutdown, privileges, times, memory for bodies, the audit log, what is stored of people, the control socket, and what their doctors look at and say.

pub mod audit;
pub mod channel;
pub mod command_line;
pub mod config;
pub mod control;
pub mod finding;
pub mod host;
pub mod http;
pub mod listeners;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod privacy;
pub mod privileges;
pub mod reference;
mod schema;
pub mod service;
pub mod time;
