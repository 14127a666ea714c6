use super::*;
use crate::config::{Config, Customers as CustomersConfig};

fn customers() -> Customers {
    let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n\
                [[customers.prefixes]]\nprefix = \"10.1.7.0/24\"\nid = \"a\"\n\
                [[customers.prefixes]]\nprefix = \"10.1.7.9/32\"\nid = \"b\"\n";
    let config: CustomersConfig = weir_daemon::config::parse::<Config>("f", text).unwrap().customers;
    Customers::new(&config).unwrap()
}

fn who(text: &str) -> Who {
    Who::try_from(text.to_owned()).unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_customer_is_blocked_with_all_his_addresses() {
    let (customers, directory) = (customers(), tempfile::tempdir().unwrap());
    let path = directory.path().join("blocks.json");
    let blocks = Blocks::open(Some(&path), "abuse@example.net").unwrap();
    let version = *blocks.watch().borrow();
    blocks.block(&customers, &who("a"), HOUR, "a bot", "operator").unwrap();
    assert!(*blocks.watch().borrow() > version);
    let told = blocks.for_agents(&customers).blocks.remove(0);
    assert!(told.prefixes.contains(&"10.1.7.128/25".to_owned()), "{told:?}");
    assert!(!told.prefixes.contains(&"10.1.7.9/32".to_owned()) && (3599..=3600).contains(&told.seconds_left));
    let owner = customers.of(address("10.1.7.1")).await.owner;
    let text = blocks.of(address("10.1.7.1"), &owner).unwrap();
    assert_eq!(text, "Your mail is blocked by your provider: a bot; contact abuse@example.net");
    let other = customers.of(address("10.1.7.9")).await.owner;
    assert_eq!(blocks.of(address("10.1.7.9"), &other), None);
    // An address that only a service knows is stopped from the first message on.
    let elsewhere = Owner { prefix: None, ..owner };
    let version = *blocks.watch().borrow();
    assert!(blocks.of(address("fd01::7"), &elsewhere).is_some() && *blocks.watch().borrow() > version);
    let prefixes = blocks.for_agents(&customers).blocks.remove(0).prefixes;
    assert!(prefixes.contains(&"fd01::/64".to_owned()), "{prefixes:?}");
    blocks.forget(address("fd01::8"));
    assert!(!blocks.for_agents(&customers).blocks.remove(0).prefixes.contains(&"fd01::/64".to_owned()));
    // They outlive the process.
    let again = Blocks::open(Some(&path), "").unwrap();
    assert_eq!((again.len(), again.list(&customers)[0]["by"].as_str()), (1, Some("operator")));
    again.unblock(&who("a")).unwrap();
    assert!(Blocks::open(Some(&path), "").unwrap().is_empty());
    std::fs::write(&path, "{").unwrap();
    assert!(Blocks::open(Some(&path), "").unwrap_err().to_string().contains("nobody knows who was blocked"));
}

#[tokio::test]
async fn a_prefix_is_blocked_whoever_it_is() {
    let (customers, blocks) = (customers(), Blocks::open(None, "").unwrap());
    let nobody = Owner::default();
    blocks.block(&customers, &who("10.2.0.0/16"), HOUR, "", "operator").unwrap();
    blocks.block(&customers, &who("10.3.0.1"), Duration::from_secs(1), "", "policy").unwrap();
    assert!(blocks.of(address("10.2.255.255"), &nobody).unwrap().contains("no reason is given"));
    assert!(blocks.of(address("10.4.0.1"), &nobody).is_none());
    std::thread::sleep(Duration::from_millis(1100));
    assert!(blocks.of(address("10.3.0.1"), &nobody).is_none() && blocks.len() == 2);
    blocks.sweep();
    assert_eq!(blocks.len(), 1);
    // A new owner of one address ends blocks of that address, not those around it.
    blocks.forget(address("10.2.0.1"));
    assert_eq!(blocks.len(), 1);
}

#[test]
fn what_cannot_be_blocked() {
    for (text, words) in [
        ("10.1.7.1/24", "bits behind its length"),
        ("0.0.0.0/0", "too much for a block"),
        ("fd00::/8", "too much for a block"),
        ("", "1 to 128 characters"),
    ] {
        let error = Who::try_from(text.to_owned()).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(who("fd01::7").to_string(), "fd01::/64");
    let (customers, blocks) = (customers(), Blocks::open(None, "").unwrap());
    let block = |seconds, reason: &str| {
        let duration = Duration::from_secs(seconds);
        blocks.block(&customers, &who("a"), duration, reason, "operator").map_err(|error| error.to_string())
    };
    assert!(block(0, "").unwrap_err().contains("accepted: 1 to"));
    assert!(block(60, "two\nlines").unwrap_err().contains("one line"));
    assert!(blocks.unblock(&who("a")).unwrap_err().to_string().contains("a is not blocked"));
}
