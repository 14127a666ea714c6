//! What is made of the definition of a command line, besides the command line.

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

pub use clap_complete::Shell;

/// Commands of system administrators.
const SECTION: &str = "8";

/// For the shell to read: `source <(weir-agent completions bash)`.
pub fn print_completions(mut command: Command, shell: Shell) {
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut io::stdout());
}

/// One of the command, and of each below it: `weir-agent.8`, `weir-agent-status.8`.
///
/// # Errors
/// If one cannot be written.
pub fn write_man_pages(command: Command, directory: &Path) -> io::Result<()> {
    let mut command = command.disable_help_subcommand(true).version(env!("CARGO_PKG_VERSION"));
    command.build();
    write(&command, None, directory)
}

fn write(command: &Command, above: Option<&str>, directory: &Path) -> io::Result<()> {
    let name = above
        .map_or_else(|| command.get_name().to_owned(), |above| format!("{above}-{}", command.get_name()));
    let page = Man::new(command.clone().name(name.clone()))
        .section(SECTION)
        .manual("weir")
        .source(format!("weir {}", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.{SECTION}")), text)?;
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| write(below, Some(&name), directory))
}
