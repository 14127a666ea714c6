//! The programs that run in the lab: real mail servers, spamd, and weir's own.

use std::process::Command;

use anyhow::Result;

use crate::lab::{Host, paths};
use crate::wait::PATIENCE;

mod agent;
mod authority;
mod c_icap;
mod clamd;
mod debian;
mod filter;
mod frr;
mod haproxy;
mod logs;
mod name_server;
mod postfix;
mod prometheus;
mod redis;
mod rspamd;
mod spamd;

pub use agent::{AgentConfig, Backend, Finished, WeirAgent};
pub use authority::Authority;
pub use c_icap::{CIcap, ICAP_PORT};
pub use clamd::{CLAMD_PORT, CLAMD_SOCKET, Clamd, eicar};
pub use debian::Debian;
pub use filter::{FilterConfig, PORT as FILTER_PORT, WeirFilter};
pub use frr::Frr;
pub use haproxy::Haproxy;
pub use logs::{LogLine, log_lines};
pub use name_server::name_server;
pub use postfix::{CUSTOMER_DOMAIN, MAIL_LOG, Postfix, Queued, SECOND_DOMAIN, Stored};
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use rspamd::{RSPAMD_PORT, Rspamd};
pub use spamd::{SPAMD_PORT, Spamd};

/// Runs one of weir's programs to its end.
fn run_to_end(host: &Host, program: &str, arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(paths::program(program)?);
    command.args(arguments);
    let mut process = host.spawn(&format!("{program}-{}", arguments.first().unwrap_or(&"")), command)?;
    let status = process.wait_exit(PATIENCE)?;
    Ok(Finished { success: status.success(), code: status.code(), output: process.output() })
}
