//! A policy service of Postfix (SMTPD_POLICY_README) that refuses by what is in the addresses, and remembers what it
//! was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use socket2::SockRef;

use crate::lab::Host;

/// The attributes of a question.
pub type Request = BTreeMap<String, String>;

/// Listens until dropped.
pub struct Policy {
    listener: TcpListener,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Policy {
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.in_network(|| Ok(TcpListener::bind(address)?))?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (asked, accepting) = (Arc::clone(&requests), listener.try_clone()?);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let asked = Arc::clone(&asked);
                // Postfix asks again where a connection broke.
                thread::spawn(move || drop(serve(&stream, &asked)));
            }
        });
        Ok(Self { listener, requests })
    }

    /// Questions asked so far of this sender.
    pub fn requests(&self, sender: &str) -> Vec<Request> {
        let all = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter(|request| request.get("sender").is_some_and(|said| said == sender))
            .cloned()
            .collect()
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        // Wakes the accepting thread, whose socket would keep the host's network alive.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

fn serve(stream: &TcpStream, asked: &Mutex<Vec<Request>>) -> Result<()> {
    let mut request = Request::new();
    for line in BufReader::new(stream).lines() {
        match line?.split_once('=') {
            Some((name, value)) => {
                request.insert(name.to_owned(), value.to_owned());
            }
            None => {
                let request = std::mem::take(&mut request);
                let action = action(&request);
                asked.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                (&mut &*stream).write_all(format!("action={action}\n\n").as_bytes())?;
            }
        }
    }
    Ok(())
}

fn action(request: &Request) -> String {
    let of = |name: &str| request.get(name).map_or("", String::as_str);
    let about = format!("{} at {}", of("client_address"), of("protocol_state"));
    match (of("protocol_state"), of("sender").split('@').next()) {
        ("RCPT", Some("refused-at-rcpt")) | ("END-OF-MESSAGE", Some("refused-at-end")) => {
            format!("554 5.7.1 policy refuses {about}")
        }
        ("RCPT", Some("deferred-at-rcpt")) | ("END-OF-MESSAGE", Some("deferred-at-end")) => {
            format!("450 4.7.1 policy defers {about}")
        }
        _ => "DUNNO".into(),
    }
}
