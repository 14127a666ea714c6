//! What the documents say to type: every command in a block is run, every one within a sentence is known with its options.
//! docs/install.md is followed step by step elsewhere (`packages::docs_install_md_is_followed`), and vagrant/ as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, FilterConfig, WeirAgent, WeirFilter};
use weir_tests::lab::{Host, Lab, NarrowLink, paths};

const PROGRAMS: [&str; 2] = ["weir-agent", "weir-filter"];

/// What cannot succeed as it stands there, and what it says then.
const NOT_HERE: [(&str, &str); 2] = [
    ("weir-filter quarantine show 5f1d9c2e0a77b3e4", "5f1d9c2e0a77b3e4"),
    ("weir-filter quarantine delete 5f1d9c2e0a77b3e4", "5f1d9c2e0a77b3e4"),
];

/// Every page, with its text.
fn pages() -> Result<BTreeMap<String, String>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let mut pages = BTreeMap::new();
    for directory in ["", "docs", "router-configs", "vagrant"] {
        for entry in fs::read_dir(workspace.join(directory))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(workspace)?.display().to_string();
                pages.insert(name, fs::read_to_string(path)?);
            }
        }
    }
    Ok(pages)
}

/// Commands in blocks, without the comment behind them. `...` are the options that the page names above.
fn in_blocks(page: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let is_ours = |line: &&str| PROGRAMS.iter().any(|program| line.starts_with(&format!("{program} ")));
    let mut fenced = false;
    let lines = page.lines().filter_map(|line| {
        fenced ^= line.starts_with("```");
        if fenced { Some(line) } else { line.strip_prefix("    ") }
    });
    for line in lines.filter(is_ours) {
        let command = line.split("  #").next().unwrap_or_default().trim();
        let options =
            commands.iter().find_map(|command| command.find(" --from-").map(|at| command[at..].to_owned()));
        commands.push(match options {
            Some(options) => command.replace(" ...", &options),
            None => command.to_owned(),
        });
    }
    commands
}

/// Commands between backticks.
fn in_sentences(page: &str) -> BTreeSet<&str> {
    let is_ours = |piece: &&str| PROGRAMS.iter().any(|program| piece.starts_with(&format!("{program} ")));
    page.split('`').skip(1).step_by(2).filter(is_ours).collect()
}

fn help(program: &str, words: &[&str]) -> Result<Option<String>> {
    let output = Command::new(paths::program(program)?).args(words).arg("--help").output()?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// As a whole word.
fn has_option(help: &str, option: &str) -> bool {
    help.split(|c: char| !c.is_ascii_lowercase() && c != '-').any(|word| word == option)
}

#[test]
fn commands_in_sentences_are_known() -> Result<()> {
    let mut unknown = Vec::new();
    for (name, page) in pages()? {
        for command in in_sentences(&page) {
            let mut words = command.split_whitespace();
            let program = words.next().unwrap_or_default();
            let rest: Vec<&str> = words.collect();
            let is_word = |word: &&&str| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
            };
            let named: Vec<&str> = rest.iter().take_while(is_word).copied().collect();
            // The words behind a subcommand may be its arguments.
            let known = (1..=named.len()).rev().find_map(|length| {
                let found = help(program, &named[..length]).transpose();
                found.map(|help| help.map(|help| (length, help)))
            });
            let Some((length, help)) = known.transpose()? else {
                unknown.push(format!("{name}: {command}"));
                continue;
            };
            // Behind a word that has others below it comes one of those.
            if help.contains("<COMMAND>") && named.len() > length {
                unknown.push(format!("{name}: {command}: {}", named[length]));
            }
            let option =
                |word: &str| word.trim_matches(|c: char| !c.is_ascii_lowercase() && c != '-').to_owned();
            let options = rest.iter().map(|word| option(word)).filter(|word| word.starts_with("--"));
            unknown.extend(
                options
                    .filter(|option| !has_option(&help, option))
                    .map(|option| format!("{name}: {command}: {option}")),
            );
        }
    }
    ensure!(unknown.is_empty(), "{unknown:#?}");
    Ok(())
}

#[test]
fn commands_in_blocks_are_run() -> Result<()> {
    Lab::run("docs", NarrowLink::Nowhere, |lab| {
        let _filters = filter_nodes(lab)?;
        let mut config = AgentConfig::new(Backend::Ebpf);
        config.nodes.truncate(1);
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        // One that is steered by rules.
        let other = lab.second_gateway("10.1.8.0/24")?;
        let external = config.to_toml().replace("backend = \"ebpf\"", "backend = \"external\"");
        WeirAgent::configure(&other, &external)?;
        for host in [&lab.gateway, &lab.filter, &other] {
            for program in PROGRAMS {
                host.sh(&format!("ln -sf {} /usr/bin/{program}", paths::program(program)?.display()))?;
            }
        }
        let (mut wrong, mut number) = (Vec::new(), 0);
        for (name, page) in pages()?.into_iter().filter(|(name, _)| name != "docs/install.md") {
            for command in in_blocks(&page) {
                number += 1;
                let host = match command.as_str() {
                    rules if rules.contains(" router-config nftables") => &other,
                    filter if filter.starts_with("weir-filter") => &lab.filter,
                    _ => &lab.gateway,
                };
                if let Err(error) = typed(host, &command) {
                    wrong.push(format!("{name}: {error:#}"));
                }
            }
        }
        ensure!(number > 12, "{number} commands");
        ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
        Ok(())
    })
}

/// A node with everything that is off by default and commands are about, and another one, on the gateway.
fn filter_nodes(lab: &Lab) -> Result<[WeirFilter; 2]> {
    let host = &lab.filter;
    let pair = WeirFilter::ask(host, &["quarantine", "key"])?;
    let key = pair
        .lines()
        .find_map(|line| line.strip_prefix("# quarantine.public_key = "))
        .context(pair.clone())?;
    host.write("/tmp/new.luau", "function data(message) return accept() end\n")?;
    host.write("/tmp/m.eml", "Subject: a message\n\nwords\n")?;
    let [one, other] = [(host, "10.3.0.11"), (&lab.gateway, "10.3.0.1")].map(|(host, address)| {
        host.write("/etc/weir/channel.token", "0123456789abcdef0123456789abcdef\n")?;
        host.sh("chmod 600 /etc/weir/channel.token")?;
        let sections = format!(
            "[quarantine]\nenabled = true\npublic_key = {key}\n\
             [channel]\nlisten = [\"{address}:10026\"]\ntoken_file = \"/etc/weir/channel.token\"\n\
             nodes = [\"10.3.0.11:10026\", \"10.3.0.1:10026\"]\n"
        );
        let listen = vec![format!("{address}:10025").parse()?];
        let config = FilterConfig { sections, listen, ..FilterConfig::node(0) }.to_toml();
        host.write("/etc/weir/filter.toml", &config)?;
        host.write("/tmp/filter.toml", &config)?;
        WeirFilter::start_as(host, 0, &config)
    });
    Ok([one?, other?])
}

/// One that runs until it is ended is ended once it is ready.
fn typed(host: &Host, command: &str) -> Result<()> {
    if command.starts_with("weir-agent run") {
        let said = host.sh(&format!("timeout --preserve-status -s TERM 5 {command} 2>&1"))?;
        ensure!(said.contains("\"ready\""), "{command}:\n{said}");
        return Ok(());
    }
    host.write("/tmp/command", format!("set -o pipefail\ncd /tmp\n{command}\n"))?;
    let outcome = host.sh("bash /tmp/command").with_context(|| command.to_owned());
    let expected = NOT_HERE.iter().find(|(begin, _)| command.starts_with(begin));
    match (outcome, expected) {
        (Err(error), Some((_, said))) if format!("{error:#}").contains(said) => Ok(()),
        (Ok(_), Some(_)) => anyhow::bail!("{command} succeeds: it is no exception any more"),
        (outcome, _) => outcome.map(|_| ()),
    }
}
