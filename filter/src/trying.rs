//! The command line of `weir-filter try`.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use weir_daemon::config;
use weir_filter::blocks::Blocker;
use weir_filter::config::Config;
use weir_filter::outside::Outside;
use weir_filter::policy::script::{Bounds, File, Recorded, Replies, SCANNERS, Trial};
use weir_filter::quarantine::Quarantine;
use weir_filter::reputation::Reputation;

#[derive(Debug, Args)]
pub struct Try {
    /// The script.
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// The message, from its header to its end.
    #[arg(long, value_name = "FILE")]
    message: PathBuf,
    /// The customer's address.
    #[arg(long, value_name = "IP")]
    from: IpAddr,
    /// The customer's id, as [customers] would find it.
    #[arg(long, value_name = "ID")]
    customer: Option<String>,
    /// What he said in EHLO.
    #[arg(long, value_name = "NAME")]
    helo: Option<String>,
    /// The reverse-path; empty as a bounce has it.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    sender: String,
    #[arg(long = "to", value_name = "ADDRESS")]
    recipients: Vec<String>,
    /// A node's configuration: its limits, its texts, and its counts, which are read from a copy.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What SpamAssassin and rspamd say. No scanner is asked.
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, allow_negative_numbers = true)]
    score: f64,
    /// What the outbreak engine says: 0, 50 or 100.
    #[arg(long, value_name = "LEVEL", default_value_t = 0)]
    outbreak: u32,
    /// What ClamAV and ICAP scanners find.
    #[arg(long, value_name = "NAME")]
    virus: Option<String>,
    /// A file in the message: its name, its class, and in how many archives it is, for example `a.pdf:executable:0`.
    #[arg(long = "file", value_name = "NAME:CLASS:DEPTH", value_parser = file)]
    files: Vec<File>,
    /// A scanner that does not answer.
    #[arg(long, value_name = "SCANNER", value_parser = SCANNERS)]
    away: Vec<String>,
    /// Ask the name servers and HTTP services of the configuration, in the name of this message. Without it nobody is asked, and
    /// nobody knows. Nothing is posted in any case.
    #[arg(long, requires = "config")]
    ask: bool,
    /// Steps and verdict as JSON.
    #[arg(long)]
    json: bool,
}

fn file(text: &str) -> Result<File, String> {
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    let [depth, class, name] = parts.as_slice() else {
        return Err("accepted: NAME:CLASS:DEPTH".into());
    };
    let depth = depth.parse().map_err(|_| format!("{depth:?} is no depth; accepted: 0, 1, 2, ..."))?;
    Ok(File { name: (*name).to_owned(), class: (*class).to_owned(), depth })
}

pub fn execute(given: Try) -> anyhow::Result<()> {
    if ![0, 50, 100].contains(&given.outbreak) {
        bail!("--outbreak {}: accepted: 0, 50, 100", given.outbreak);
    }
    let mut trial = Trial {
        script: given.script,
        message: given.message,
        from: given.from,
        customer: given.customer,
        helo: given.helo,
        sender: given.sender,
        recipients: given.recipients,
        recorded: Recorded {
            score: given.score,
            virus: given.virus,
            outbreak: given.outbreak,
            files: given.files,
            away: given.away,
            listed: None,
        },
        bounds: Bounds::default(),
        replies: Replies::default(),
        outside: None,
        quarantine: Quarantine::asked_only(&Default::default()),
        blocker: Blocker::asked_only(&Default::default()),
        reputation: None,
        counters: None,
    };
    if let Some(path) = &given.config {
        let config: Config = config::load(path)?;
        trial.bounds = config.script.bounds();
        trial.replies = Replies::of(&config);
        trial.outside = given.ask.then(|| Outside::new(&config)).transpose()?;
        trial.quarantine = Quarantine::asked_only(&config.quarantine);
        trial.reputation = Reputation::new(&config.reputation);
        trial.blocker = Blocker::asked_only(&config.script);
        trial.counters = Some(config.counters.file).filter(|file| !file.as_os_str().is_empty());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("cannot start the runtime")?.block_on(trial.run())?;
    if given.json {
        println!("{}", outcome.to_json());
    } else {
        print!("{}", outcome.to_text());
    }
    Ok(())
}
