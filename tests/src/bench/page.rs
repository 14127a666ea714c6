//! docs/performance.md: tables, targets and plots.

use std::fs;
use std::path::{Path as FilePath, PathBuf};

use anyhow::{Context, Result};

use crate::latency::COMING;
use crate::path::Path;
use crate::plot;
use crate::result::{Found, Kind};
use crate::targets;

const DIRECTORY: &str = "performance";

/// Writes the page, the numbers as JSON, and the plots.
pub(crate) fn write(found: &Found) -> Result<()> {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let directory = docs.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    let mut plots = String::new();
    for plot in plot::all(found) {
        let file = format!("{}.svg", plot.name);
        plot.draw(&directory.join(&file))?;
        plots += &format!("![{}]({DIRECTORY}/{file})\n\n", plot.title);
    }
    let json = serde_json::to_string_pretty(&found.to_json())? + "\n";
    write_to(&directory.join("figures.json"), &json)?;
    write_to(&docs.join("performance.md"), &document(found, &plots))?;
    println!("written to docs/performance.md");
    Ok(())
}

fn write_to(path: &FilePath, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn document(found: &Found, plots: &str) -> String {
    format!(
        "# Performance\n\n\
         `make bench` writes this page; nothing on it is written by hand. [What was done for speed](speed.md) is another.\n\n\
         Measured on {} on {}. Three hosts in network namespaces of one machine: customers with Postfix's `smtp-source`, the gateway, and a\n\
         destination with Postfix's `smtp-sink`; they share the processors, so that a way that is slow leaves time to nobody else. Each way\n\
         was taken {} times in turn, {} s for each cell; the figures are medians, the ratios medians of ratios within a round. Absolute\n\
         figures are this machine's; ratios are what may be compared.\n\n\
         | way | what |\n|---|---|\n\
         | direct | routed, no proxy |\n\
         | haproxy | TCP mode, transparent, with the customer's address (`usesrc clientip`): knows no SMTP, asks no filter |\n\
         | nginx | `stream`, `proxy_bind $remote_addr transparent`; reached by `redirect`, so with connection tracking |\n\
         | weir, bypass | the whole agent, no node asked |\n\
         | weir, filter | two weir-filter nodes that count and have limits; no scanner |\n\
         | proxsmtpd | Debian's proxsmtp 1.10, `TransparentProxy: full` |\n\
         | proxsmtpd, filter | the same with `FilterType: file`, a program that hands each message on, haproxy, and the same two nodes |\n\n\
         weir is steered to by eBPF unless it says tproxy.\n\n\
         ## Targets\n\n{}\n{plots}{}",
        found.machine,
        found.date,
        found.rounds,
        found.seconds,
        targets::table(found),
        tables(found)
    )
}

/// In Markdown.
pub(crate) fn tables(found: &Found) -> String {
    format!(
        "## Messages a second\n\nIn parentheses: of the direct way.\n\n{}{}\n\
         ## Seconds of a processor for 1,000 messages\n\nUser and system time of each part's processes; what the kernel does in interrupts is\n\
         nobody's.\n\n{}\n\
         ## Time of a message\n\nMilliseconds for 4 KiB. Alone: on one connection, from MAIL to the reply to the message. Coming: {COMING} a second come whether or\n\
         not those before them are done, each with a connection of its own, from when it comes to the reply.\n\n{}\n\
         ## Memory of idle sessions\n\nResident, of the programs on the gateway, each session greeted and silent. As many as the machine's limit of open files lets\n\
         the agent have; mail beside them is of 4 KiB, 10 connections, one message each.\n\n{}{}",
        rates(found),
        failed(found),
        processors(found),
        times(found),
        idle(found),
        growth(found)
    )
}

fn head(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    format!("| {} |\n|{}\n", names.join(" | "), "---|".repeat(names.len()))
}

fn row(fields: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", fields.collect::<Vec<_>>().join(" | "))
}

fn rates(found: &Found) -> String {
    let names = found.paths.iter().map(|path| path.name().to_owned());
    let mut table = head(std::iter::once("messages".to_owned()).chain(names));
    for cell in &found.cells {
        let figures = found.paths.iter().map(|path| {
            let Some(rate) = found.rate(*path, *cell) else { return "-".into() };
            match found.ratio(*path, Path::Direct, *cell) {
                Some(ratio) if *path != Path::Direct => format!("{rate:.0} ({ratio:.2})"),
                _ => format!("{rate:.0}"),
            }
        });
        table += &row(std::iter::once(cell.name()).chain(figures));
    }
    table
}

fn failed(found: &Found) -> String {
    let lines = |path: &Path| {
        let (name, cells) = (path.name(), found.failed(*path));
        cells.into_iter().map(move |cell| format!("- {name}, {cell}\n"))
    };
    let lines: String = found.paths.iter().flat_map(lines).collect();
    if lines.is_empty() { lines } else { format!("\nCame to no end, and count for nothing:\n\n{lines}") }
}

fn processors(found: &Found) -> String {
    let parts: Vec<(Path, String)> = found
        .paths
        .iter()
        .flat_map(|path| found.parts(*path).into_iter().map(move |part| (*path, part)))
        .collect();
    let names =
        parts.iter().map(
            |(path, part)| {
                if path.name() == part { part.clone() } else { format!("{}: {part}", path.name()) }
            },
        );
    let mut table = head(std::iter::once("messages".to_owned()).chain(names));
    for cell in &found.cells {
        let figures = parts
            .iter()
            .map(|(path, part)| found.cpu(*path, part, *cell).map_or("-".into(), |cpu| format!("{cpu:.2}")));
        table += &row(std::iter::once(cell.name()).chain(figures));
    }
    table
}

fn times(found: &Found) -> String {
    let shares = [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)];
    let kinds = [("alone", Kind::Alone), ("coming", Kind::Coming)];
    let columns = kinds.iter().flat_map(|(kind, _)| shares.map(|(share, _)| format!("{kind}, {share}")));
    let mut table = head(std::iter::once("way".to_owned()).chain(columns));
    for path in found.paths.iter().filter(|path| !path.is_slow()) {
        let figures = kinds.iter().flat_map(|(_, kind)| {
            shares.map(|(_, per_mille)| {
                found.within(*path, *kind, per_mille).map_or("-".into(), |time| format!("{time:.2}"))
            })
        });
        table += &row(std::iter::once(path.name().to_owned()).chain(figures));
    }
    table
}

fn growth(found: &Found) -> String {
    if found.growth.is_empty() {
        return String::new();
    }
    let mut table = "\n## How it grows\n\nweir with filter, 4 KiB, 10 connections, one message each; prefixes beside the lab's, keys on one node, all nodes \
        on this machine's\nprocessors.\n\n"
        .to_owned();
    let columns = ["what", "how many", "messages a second", "CPU seconds for 1,000, agent and nodes"];
    table += &head(columns.into_iter().map(str::to_owned));
    for growth in &found.growth {
        for (level, rate, cpu) in growth.medians() {
            let fields =
                [growth.what.name().to_owned(), level.to_string(), format!("{rate:.0}"), format!("{cpu:.2}")];
            table += &row(fields.into_iter());
        }
    }
    table
}

fn idle(found: &Found) -> String {
    let mut table = head(
        ["way", "sessions: MB", "kB a session", "sessions: messages a second beside them"]
            .into_iter()
            .map(str::to_owned),
    );
    for path in found.paths.iter().filter(|path| !found.idle_of(**path).is_empty()) {
        let levels = found.idle_of(*path).iter();
        let levels: Vec<String> =
            levels.map(|one| format!("{}: {:.1}", one.sessions, one.resident as f64 / 1024.0)).collect();
        let each = found.per_session(*path).map_or("-".into(), |kilobytes| format!("{kilobytes:.1}"));
        let rates = found.idle_of(*path).iter();
        let rates: Vec<String> =
            rates.filter_map(|one| Some(format!("{}: {:.0}", one.sessions, one.rate?))).collect();
        let rates = if rates.is_empty() { "-".to_owned() } else { rates.join(", ") };
        table += &row([path.name().to_owned(), levels.join(", "), each, rates].into_iter());
    }
    table
}
