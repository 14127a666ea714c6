//! What weir is to reach in this lab, and what it reached.

use weir_tests::components::Backend;

use crate::cell::{Cell, KIB, MIB};
use crate::path::Path;
use crate::result::{Found, Kind};

const BYPASS: Path = Path::Bypass(Backend::Ebpf);
const FILTER: Path = Path::Filter(Backend::Ebpf);

/// One line: what, the bound, what was found, whether it is reached.
struct Target {
    what: String,
    bound: String,
    found: String,
    reached: bool,
}

/// In Markdown. What was not measured has no line.
pub(crate) fn table(found: &Found) -> String {
    let mut table = String::from("| target | bound | found | reached |\n|---|---|---|---|\n");
    for Target { what, bound, found, reached } in all(found) {
        table += &format!("| {what} | {bound} | {found} | {} |\n", if reached { "yes" } else { "**no**" });
    }
    table
}

fn all(found: &Found) -> Vec<Target> {
    let mut targets = Vec::new();
    targets.extend(worst(found, "bypass, of haproxy's rate, in every cell", BYPASS, Path::Haproxy, 0.85));
    let large = |cell: &&Cell| cell.size >= 100 * KIB;
    for cell in found.cells.iter().filter(large) {
        let what = format!("bypass, CPU, of haproxy's: {}", cell.name());
        let of = |path, part| found.cpu(path, part, *cell);
        if let (Some(own), Some(other)) = (of(BYPASS, "agent"), of(Path::Haproxy, "haproxy")) {
            targets.push(at_most(what, 1.0, own / other));
        }
    }
    for (size, connections, many, bound) in [
        (4 * KIB, 10, false, 0.45),
        (4 * KIB, 10, true, 0.5),
        (100 * KIB, 10, false, 0.7),
        (2 * MIB, 10, false, 0.8),
    ] {
        let cell = Cell { size, connections, many };
        let ratio = found.ratio(FILTER, Path::Direct, cell);
        targets
            .extend(ratio.map(|ratio| at_least(format!("filter, of direct: {}", cell.name()), bound, ratio)));
    }
    let what = "filter, of proxsmtpd's with its filter path, in every cell";
    targets.extend(worst(found, what, FILTER, Path::ProxsmtpdFilter, 5.0));
    for (size, bound) in [(4 * KIB, 0.35), (100 * KIB, 0.8), (2 * MIB, 4.0)] {
        let cell = Cell { size, connections: 10, many: false };
        let what = format!("filter, the agent's CPU seconds for 1,000 messages: {}", cell.name());
        targets.extend(found.cpu(FILTER, "agent", cell).map(|cpu| at_most(what, bound, cpu)));
    }
    for (name, per_mille, bound) in [("median", 500, 1.0), ("p99", 990, 3.0)] {
        let of = |path| found.within(path, Kind::Alone, per_mille);
        if let (Some(own), Some(direct)) = (of(FILTER), of(Path::Direct)) {
            let what = format!("filter, added milliseconds of 4 KiB at one connection, {name}");
            targets.push(at_most(what, bound, own - direct));
        }
    }
    let each = found.per_session(FILTER);
    targets.extend(each.map(|each| at_most("kB resident for an idle session".into(), 6.0, each)));
    let what = "eBPF, of tproxy's rate, one message a connection";
    targets.extend(worst_of(found, what, BYPASS, Path::Bypass(Backend::Tproxy), 1.0, |cell| {
        cell.size == 4 * KIB && !cell.many
    }));
    targets
}

fn worst(found: &Found, what: &str, path: Path, to: Path, bound: f64) -> Option<Target> {
    worst_of(found, what, path, to, bound, |_| true)
}

/// The lowest ratio of some cells.
fn worst_of(
    found: &Found,
    what: &str,
    path: Path,
    to: Path,
    bound: f64,
    chosen: impl Fn(&Cell) -> bool,
) -> Option<Target> {
    let ratios = found.cells.iter().filter(|cell| chosen(cell));
    let ratios: Vec<(f64, String)> =
        ratios.filter_map(|cell| Some((found.ratio(path, to, *cell)?, cell.name()))).collect();
    let (ratio, cell) = ratios.iter().min_by(|one, other| one.0.total_cmp(&other.0))?;
    let mut target = at_least(what.to_owned(), bound, *ratio);
    target.found += &format!(" ({cell}; {} cells compared)", ratios.len());
    Some(target)
}

fn at_least(what: String, bound: f64, found: f64) -> Target {
    Target { what, bound: format!("at least {bound}"), found: format!("{found:.2}"), reached: found >= bound }
}

fn at_most(what: String, bound: f64, found: f64) -> Target {
    Target { what, bound: format!("at most {bound}"), found: format!("{found:.2}"), reached: found <= bound }
}
