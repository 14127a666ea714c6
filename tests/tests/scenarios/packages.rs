//! The Debian packages, in a clean Debian with systemd: installed, used, upgraded under load, removed without a trace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, Debian, FilterConfig};
use weir_tests::lab::{Family, Lab, NarrowLink, Snapshot, paths};
use weir_tests::probe::{HAM, Way, way};
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

use crate::take_over::Load;

const AGENT: &str = "weir-agent";
const FILTER: &str = "weir-filter";

/// Where something of weir could be left. Not /proc and /sys, but what is pinned.
const PLACES: [&str; 7] = ["/etc", "/usr", "/lib", "/var", "/run", "/tmp", "/sys/fs/bpf"];

/// Tenths of what `systemd-analyze security` gives to a service that is not restricted at all: 100.
const EXPOSURE: [(&str, u32); 2] = [(AGENT, 27), (FILTER, 13)];

/// Made once, as `make deb` makes them, without the packages of debug symbols.
fn packages() -> Result<&'static Path> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        // Those of the last run are in the way, and those of this one are left for whoever wants to see them.
        let directory = paths::executables()?.join("packages-of-tests");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(&directory)?;
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
        let mut command = Command::new(workspace.join("scripts/build-packages"));
        command.arg("--to").arg(&directory).env("DEB_BUILD_OPTIONS", "noautodbgsym");
        run(&mut command)?;
        Ok(directory)
    };
    let made = MADE.get_or_init(|| make().map_err(|error: anyhow::Error| format!("{error:#}")));
    made.as_deref().map_err(|error| anyhow!("{error}"))
}

pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(said)
}

pub(crate) fn package(name: &str) -> Result<PathBuf> {
    let is_it = |path: &PathBuf| {
        let file = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb") && !file.contains("next")
    };
    let mut files = fs::read_dir(packages()?)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    files.find(is_it).with_context(|| format!("no package {name}"))
}

/// The same with a later version.
fn next(name: &str) -> Result<PathBuf> {
    let (package, unpacked) = (package(name)?, packages()?.join(format!("{name}-next")));
    let later = packages()?.join(format!("{name}_next.deb"));
    run(Command::new("dpkg-deb").arg("-R").arg(&package).arg(&unpacked))?;
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version = text.lines().find(|line| line.starts_with("Version: ")).context("no version")?;
    fs::write(&control, text.replace(version, &format!("{version}+next")))?;
    run(Command::new("dpkg-deb").args(["-Znone", "-b"]).arg(&unpacked).arg(&later))?;
    Ok(later)
}

#[test]
fn lintian_finds_nothing() -> Result<()> {
    let mut command = Command::new("lintian");
    command.args(["--allow-root", "--fail-on", "error,warning"]);
    run(command.arg(package(AGENT)?).arg(package(FILTER)?)).map(|_| ())
}

/// A machine with one of the two on it.
struct Machine<'a> {
    debian: Debian<'a>,
    name: &'static str,
}

impl Machine<'_> {
    fn install(&self, package: &Path) -> Result<String> {
        self.debian.bring(package)?;
        let file = package.file_name().context("a file has a name")?.to_string_lossy();
        self.debian.sh(&format!("dpkg -i /root/{file}"))
    }

    fn configure(&self, text: &str) -> Result<()> {
        let file = self.name.trim_start_matches("weir-");
        self.debian.write(&format!("/etc/weir/{file}.toml"), text)
    }

    fn systemctl(&self, arguments: &str) -> Result<String> {
        let outcome = self.debian.sh(&format!("systemctl {arguments} {}", self.name));
        outcome.with_context(|| self.journal())
    }

    fn journal(&self) -> String {
        self.debian
            .sh(&format!("journalctl --no-pager -u {}", self.name))
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    fn property(&self, property: &str) -> Result<String> {
        Ok(self.systemctl(&format!("show --value --property {property}"))?.trim().to_owned())
    }

    fn status(&self) -> Result<Value> {
        let said = self.debian.sh(&format!("{} status --json", self.name))?;
        serde_json::from_str(&said).context(said)
    }

    /// What is there of it.
    fn remains(&self) -> Result<Vec<String>> {
        let mut remains = self.debian.files(&PLACES)?;
        remains.retain(|path| path.contains("weir"));
        let people = self.debian.sh("grep -h weir /etc/passwd /etc/group /etc/shadow /etc/gshadow; true")?;
        remains.extend(people.lines().map(str::to_owned));
        Ok(remains)
    }
}

/// With a way to the internet, as gateways have one, and as the doctor wants it where connections are to go straight again
/// after the agent has ended: else one from a port that was just used would hang.
fn machines(lab: &Lab) -> Result<[Machine<'_>; 2]> {
    let [to_v4, to_v6] = Family::BOTH.map(Family::destination);
    lab.gateway.sh(&format!("ip route add default via {to_v4}; ip -6 route add default via {to_v6}"))?;
    lab.gateway.sh("echo 0 >/proc/sys/net/ipv4/tcp_early_demux")?;
    let machine = |host, name| anyhow::Ok(Machine { debian: Debian::boot(host)?, name });
    Ok([machine(&lab.gateway, AGENT)?, machine(&lab.filter, FILTER)?])
}

#[test]
fn are_installed_used_upgraded_and_purged() -> Result<()> {
    Lab::run("packages", NarrowLink::Nowhere, |lab| {
        let [agent, filter] = machines(lab)?;
        let before = Snapshot::of(&lab.gateway)?;
        let _destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        for machine in [&agent, &filter] {
            ensure!(machine.remains()?.is_empty(), "{:?} before the installation", machine.remains()?);
            is_installed(machine)?;
        }
        let mut config = AgentConfig::new(Backend::Ebpf).closed();
        config.nodes.truncate(1);
        let without_files = |text: String| -> String {
            // As packaged: each file where it is by default.
            text.lines().filter(|line| !line.contains("/var/lib/")).map(|line| format!("{line}\n")).collect()
        };
        filter.configure(&without_files(FilterConfig::node(0).to_toml()))?;
        agent.configure(&config.to_toml())?;
        for machine in [&filter, &agent] {
            machine.systemctl("start")?;
        }
        are_restricted(&agent, &filter)?;
        one_message(lab, &agent, &filter).context("after the installation")?;
        agent.debian.sh("weir-agent doctor")?;
        upgrade_under_load(lab, &agent).context("the agent's upgrade")?;
        let later = next(FILTER)?;
        // It is the only node: agents wait for it.
        under_load(lab, || filter.install(&later).map(|_| ())).context("the node's upgrade")?;
        ensure!(filter.systemctl("is-active")?.trim() == "active", "after its upgrade");
        a_mistake_changes_nothing(&agent, &config).context("a mistake in the configuration")?;
        who_hangs_is_started_again(&agent).context("the watchdog")?;
        let way = intercepted(lab).with_context(|| format!("after the watchdog:\n{}", agent.journal()))?;
        ensure!(way == Way::Intercepted, "after the watchdog's restart");
        for machine in [&agent, &filter] {
            machine.debian.sh(&format!("dpkg --purge {}", machine.name))?;
            ensure!(machine.remains()?.is_empty(), "left of {}: {:#?}", machine.name, machine.remains()?);
        }
        let changes = Snapshot::of(&lab.gateway)?.changes_since(&before);
        ensure!(changes.is_empty(), "left on the gateway:\n{changes}");
        let way = intercepted(lab).context("after the purge")?;
        ensure!(
            way == Way::Straight,
            "{way:?} after the purge, though the port was to be closed without the agent"
        );
        Ok(())
    })
}

fn intercepted(lab: &Lab) -> Result<Way> {
    way(&lab.customer, Family::V4.customer(), Family::V4.destination())
}

fn is_installed(machine: &Machine<'_>) -> Result<()> {
    let name = machine.name;
    let (file, said) = (name.trim_start_matches("weir-"), machine.install(&package(name)?)?);
    let state = machine.systemctl("show --value --property ActiveState,UnitFileState")?;
    ensure!(state.split_whitespace().eq(["inactive", "disabled"]), "{state}\n{said}");
    let check = machine.debian.sh(&format!("{name} check --config /etc/weir/{file}.toml"));
    check.context("the configuration that is installed")?;
    let rights = machine.debian.sh("stat -c %U:%G:%a /etc/weir")?;
    ensure!(rights.trim() == "root:weir:750", "{rights}");
    for there in ["man/man8/{}-status.8.gz", "bash-completion/completions/{}", "doc/{}/copyright"] {
        let path = machine.debian.path(&format!("/usr/share/{}", there.replacen("{}", name, 1)));
        ensure!(path.is_file(), "{}", path.display());
    }
    let verified = machine.debian.sh(&format!("systemd-analyze verify --man=no {name}.service"))?;
    ensure!(verified.trim().is_empty(), "{verified}");
    Ok(())
}

fn are_restricted(agent: &Machine<'_>, filter: &Machine<'_>) -> Result<()> {
    for ((name, exposure), machine) in EXPOSURE.iter().zip([agent, filter]) {
        let analysis = format!("systemd-analyze security --no-pager --threshold={exposure} {name}.service");
        machine.debian.sh(&analysis)?;
    }
    for (machine, owner) in [(agent, "root:root:755"), (filter, "weir-filter:weir:755")] {
        let rights = machine.debian.sh(&format!("stat -c %U:%G:%a /run/{}", machine.name))?;
        ensure!(rights.trim() == owner, "{rights}");
    }
    let user = filter.debian.sh(&format!("stat -c %U /proc/{}", filter.property("MainPID")?))?;
    ensure!(user.trim() == FILTER, "{user}");
    ensure!(agent.status()?["privileges"]["capabilities"] == serde_json::json!(["CAP_NET_ADMIN", "CAP_BPF"]));
    Ok(())
}

fn one_message(lab: &Lab, agent: &Machine<'_>, filter: &Machine<'_>) -> Result<()> {
    let mut client = connect(lab)?;
    client.send_message("a@customer.test", &["user@destination.test"], HAM)?.expect(250)?;
    let accepted = agent.status()?["counters"]["accepted"].clone();
    ensure!(accepted == 1, "{accepted} accepted");
    wait_until("the message in the node's log", PATIENCE, || {
        Ok(filter.debian.sh("weir-filter log --json")?.contains("\"accept\""))
    })
}

fn connect(lab: &Lab) -> Result<Client> {
    let to = (Family::V4.destination(), 25).into();
    let mut client = Client::connect_from(&lab.customer, Family::V4.customer(), to)?;
    let extensions = client.greet("mail.customer.test")?;
    ensure!(!extensions.announces("STARTTLS"), "went past weir");
    Ok(client)
}

/// A customer sends while `upgrade` runs, and some more after it: nothing of that is refused, goes past weir, or waits for its
/// connection.
fn under_load(lab: &Lab, upgrade: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let load = Load::default();
    thread::scope(|scope| {
        let loading = scope.spawn(|| load.go_on(lab, 0));
        let upgraded = upgrade().and_then(|()| {
            let sent = load.sent.load(Relaxed);
            wait_until("messages after the upgrade", PATIENCE, || Ok(load.sent.load(Relaxed) > sent + 10))
        });
        load.over.store(true, Relaxed);
        loading.join().map_err(|_| anyhow!("a panic"))??;
        upgraded
    })?;
    ensure!(load.straight.load(Relaxed) == 0 && load.slow.load(Relaxed) == 0, "{load:?}");
    Ok(())
}

fn upgrade_under_load(lab: &Lab, agent: &Machine<'_>) -> Result<()> {
    let package = next(AGENT)?;
    let (before, mut open) = (agent.property("MainPID")?, connect(lab)?);
    open.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
    under_load(lab, || {
        let said = agent.install(&package)?;
        ensure!(said.contains("the new version has taken over"), "{said}");
        Ok(())
    })?;
    ensure!(agent.property("MainPID")? != before, "the same process");
    ensure!(
        agent.status()?["pid"] == agent.property("MainPID")?.parse::<u32>()?,
        "systemd follows another process"
    );
    ensure!(agent.property("NRestarts")? == "0", "it was restarted");
    // The session that was open before goes on.
    open.command("RCPT TO:<user@destination.test>")?.expect(250)?;
    open.command("DATA")?.expect(354)?;
    open.send(b"Subject: begun before\r\n\r\nended after\r\n.\r\n")?;
    open.expect(250)?;
    open.command("QUIT")?.expect(221)?;
    Ok(())
}

fn a_mistake_changes_nothing(agent: &Machine<'_>, config: &AgentConfig) -> Result<()> {
    let before = agent.property("MainPID")?;
    agent.configure(&config.to_toml().replace("[spool]", "[spool]\ncolour = 1"))?;
    ensure!(agent.systemctl("reload").is_err(), "a mistake was taken");
    let journal = agent.journal();
    ensure!(journal.contains("colour"), "{journal}");
    agent.configure(&config.to_toml())?;
    ensure!(agent.property("MainPID")? == before && agent.systemctl("is-active")?.trim() == "active");
    Ok(())
}

/// The watchdog's time is shortened; nothing else of the unit is another.
fn who_hangs_is_started_again(agent: &Machine<'_>) -> Result<()> {
    let directory = "/run/systemd/system/weir-agent.service.d";
    agent.debian.sh(&format!("mkdir -p {directory}"))?;
    let shorter = "[Service]\nWatchdogSec=2\nEnvironment=WATCHDOG_USEC=2000000\n";
    agent.debian.write(&format!("{directory}/watchdog.conf"), shorter)?;
    agent.debian.sh("systemctl daemon-reload")?;
    // The first is told by systemd how often to speak; one that has taken over is not.
    agent.systemctl("restart")?;
    agent.systemctl("reload")?;
    agent.debian.sh("systemctl kill -s STOP --kill-whom=main weir-agent")?;
    wait_until("a new start", PATIENCE, || {
        Ok(agent.property("NRestarts")? != "0" && agent.property("ActiveState")? == "active")
    })?;
    agent.debian.sh(&format!("rm -r {directory} && systemctl daemon-reload"))?;
    Ok(())
}

const INSTALL: &str = include_str!("../../../docs/install.md");

/// A block of docs/install.md: what it is, on which machine, and its text.
struct Block {
    words: Vec<String>,
    text: String,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in INSTALL.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(words), None) => {
                let words = words.split_whitespace().map(str::to_owned).collect();
                open = Some(Block { words, text: String::new() });
            }
            (None, Some(block)) => open = Some(Block { text: format!("{}{line}\n", block.text), ..block }),
            (None, None) => {}
        }
    }
    blocks
}

#[test]
fn docs_install_md_is_followed() -> Result<()> {
    Lab::run("install", NarrowLink::Nowhere, |lab| {
        let [agent, filter] = machines(lab)?;
        let _destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        for machine in [&agent, &filter] {
            machine.debian.bring(&package(machine.name)?)?;
        }
        let blocks = blocks();
        ensure!(blocks.len() > 12, "{} blocks", blocks.len());
        for Block { words, text } in blocks {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let machine = if words.get(1) == Some(&"filter") { &filter } else { &agent };
            match words[..] {
                ["toml", _] => machine.configure(&text)?,
                ["sh", _] => machine.debian.sh(&format!("set -e\n{text}")).map(|_| ())?,
                ["sh", _, "message"] => {
                    let mut client = connect(lab)?;
                    client.send_message("a@customer.test", &["user@destination.test"], HAM)?.expect(250)?;
                    client.command("QUIT")?.expect(221)?;
                    let shown = |said: &str| said.contains("accept");
                    wait_until(&format!("the message in the output of {text}"), PATIENCE, || {
                        Ok(machine.debian.sh(&text).is_ok_and(|said| shown(&said)))
                    })?;
                }
                _ => anyhow::bail!("what is a block of {words:?}?"),
            }
        }
        for machine in [&agent, &filter] {
            ensure!(machine.remains()?.is_empty(), "left of {}: {:#?}", machine.name, machine.remains()?);
        }
        Ok(())
    })
}
