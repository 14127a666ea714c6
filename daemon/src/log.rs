//! Logs on standard error: one JSON object a line, or text for people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
    Text,
}

/// Starts logging; `RUST_LOG` selects by level and module, the default is `info`. A second call
/// changes nothing.
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Err means that logging has been started before.
    let _ = match format {
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
        Format::Text => lines.with_ansi(false).try_init(),
    };
}
