//! Scanners that a script asks by name, found in its text before it is used: on a node without one, the script would
//! fail only when a message comes that far.

use super::{LoadError, SCANNERS};

/// # Errors
/// The first `scan("...")` that cannot be answered on this node, and why. One that the script asks for with
/// `has("...")` may be missing.
pub(super) fn check(name: &str, source: &str, missing: &[(&'static str, String)]) -> Result<(), LoadError> {
    let careful: Vec<&str> = calls(source, "has").map(|(_, scanner)| scanner).collect();
    for (line, scanner) in calls(source, "scan") {
        let unknown = || format!("{scanner:?} is none of {}", SCANNERS.join(", "));
        let why = match missing.iter().find(|(known, _)| *known == scanner) {
            Some(_) if careful.contains(&scanner) => continue,
            Some((_, why)) => why.clone(),
            None if SCANNERS.contains(&scanner) => continue,
            None => unknown(),
        };
        return Err(LoadError::Unknown { name: name.to_owned(), line, what: format!("scan: {why}") });
    }
    Ok(())
}

/// The calls of a function with a text in quotes: their lines, and the text. Comments at the end of a line do not count.
fn calls<'s>(source: &'s str, function: &'s str) -> impl Iterator<Item = (usize, &'s str)> {
    source.lines().enumerate().flat_map(move |(at, line)| {
        let code = line.split("--").next().unwrap_or_default();
        code.match_indices(function).filter_map(move |(begin, _)| {
            let before = code.get(..begin)?.chars().next_back();
            if before.is_some_and(|one| one.is_alphanumeric() || "_.:".contains(one)) {
                return None;
            }
            let rest = code.get(begin + function.len()..)?.trim_start();
            let rest = rest.strip_prefix('(').unwrap_or(rest).trim_start();
            let quote = rest.chars().next().filter(|one| "\"'".contains(*one))?;
            let (text, _) = rest.get(1..)?.split_once(quote)?;
            Some((at + 1, text))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::check;

    fn told(source: &str) -> Option<String> {
        let missing = [("rspamd", "rspamd is not on this node".to_owned())];
        check("p.luau", source, &missing).err().map(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_asked_is_found_with_its_line() {
        assert_eq!(
            told("x\nlocal s = scan(\"rspamd\")").unwrap(),
            "p.luau:2: scan: rspamd is not on this node"
        );
        assert_eq!(told("scan 'rspamd'").unwrap(), "p.luau:1: scan: rspamd is not on this node");
        assert!(
            told("scan('spamd')").unwrap().starts_with("p.luau:1: scan: \"spamd\" is none of spamassassin, ")
        );
    }

    #[test]
    fn what_can_be_asked_or_is_asked_with_care_is_not() {
        assert_eq!(told("scan('spamassassin') -- scan('rspamd')"), None);
        assert_eq!(told("if has('rspamd') then\n scan('rspamd')\nend"), None);
        assert_eq!(told("x.scan('rspamd') rescan('rspamd') scan(name)"), None);
    }
}
