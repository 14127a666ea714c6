//! What a router with a shell does to have mail at an agent that is well: it looks every second, and sets one route.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::beside::{Beside, metrics_port};
use super::{Facts, Family};

/// One agent at a time, and the same as long as it is well: sessions are known to the agent that has them. Where none says
/// that it is well, one whose host is there: what becomes of mail without an agent is decided there.
/// The script says before it what `route_of_mail` is, by family: the prefix, and perhaps a table.
pub(super) fn check(facts: &Facts<'_>, beside: &Beside, families: &[Family]) -> String {
    let well = |family, host| match metrics_port(facts.config, family) {
        Some(port) => format!("url=\"http://{host}:{port}/metrics\" ;;"),
        None => "is_there \"$1\"; return ;;".to_owned(),
    };
    let mut text =
        HEALTH.replacen("{v6}", &well(Family::V6, "[$1]"), 1).replacen("{v4}", &well(Family::V4, "$1"), 1);
    text += "\ncheck() {\n";
    for family in families {
        let agents: Vec<String> = beside.agents(*family).iter().map(IpAddr::to_string).collect();
        let _ = writeln!(text, "    choose {} {}", family.flag(), agents.join(" "));
    }
    text + "}\n"
}

const HEALTH: &str = r#"
is_there() {
    ping -c 1 -W 1 "$1" >/dev/null 2>&1
}

# Not, if it is silent three times in a row: one that is being taken over from is silent for a second.
is_well() {
    case $1 in
    *:*) {v6}
    *) {v4}
    esac
    for pause in 1 1 0; do
        curl --silent --fail --max-time 1 --output /dev/null "$url" && return
        sleep $pause
    done
    return 1
}

# By way of the first of these that is as it should be. A route is several words.
# shellcheck disable=SC2046
by() {
    test=$1 family=$2
    shift 2
    for agent; do
        if "$test" "$agent"; then
            ip "$family" route replace $(route_of_mail "$family") via "$agent" metric 1 || true
            return
        fi
    done
    return 1
}

# The same agent as long as it is well, for it knows its sessions; then another; then one whose host is there, where it is
# decided what becomes of mail without an agent.
# shellcheck disable=SC2046,SC2086
choose() {
    family=$1
    shift
    current=$(ip "$family" route show $(route_of_mail "$family") 2>/dev/null | sed -n 's/^[^ ]* via \([^ ]*\).*/\1/p')
    by is_well "$family" $current "$@" || by is_there "$family" $current "$@" ||
        ip "$family" route del $(route_of_mail "$family") metric 1 2>/dev/null || true
}
"#;

/// What is done every second if the script is to go on.
pub(super) fn watch(what: &str) -> String {
    format!(
        "# With the argument `watch` for ever: that is for a service.\n\
         while [ \"${{1:-}}\" = watch ]; do\n    sleep 1\n    {what}\ndone\n"
    )
}
