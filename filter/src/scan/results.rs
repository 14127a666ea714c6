//! What scanners say of one message: each is asked when somebody first wants to know, and once.

use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::{Cause, Finding, Report, Scanned, Scanners};
use crate::message::Message;
use crate::together::together;

/// Asked together, they all have to be done in the time for the verdict, which begins with this.
#[derive(Debug)]
pub struct Results<'m> {
    message: &'m Message,
    scanners: &'m Scanners,
    until: Instant,
    /// Nobody is to look at the message.
    closed: bool,
    /// Why those that give scores are not asked.
    spared_scores: OnceLock<Cause>,
    /// Why none is.
    spared: OnceLock<Cause>,
    /// How long each took that was asked, its turn included.
    times: Mutex<Vec<(Box<str>, Duration)>>,
    spamassassin: OnceCell<Scanned>,
    rspamd: OnceCell<Scanned>,
    clamav: OnceCell<Scanned<Finding>>,
    /// In the order of the configuration.
    icap: Vec<OnceCell<Scanned<Finding>>>,
}

/// What one scanner said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Said<'r> {
    pub scanner: &'r str,
    pub report: Option<&'r Report>,
    pub infection: Option<&'r str>,
    /// Why it has not seen all of the message.
    pub unscanned: Option<Cause>,
}

impl<'m> Results<'m> {
    pub fn new(message: &'m Message, scanners: &'m Scanners) -> Self {
        Self {
            message,
            scanners,
            until: scanners.deadline(),
            closed: false,
            spared_scores: OnceLock::new(),
            spared: OnceLock::new(),
            times: Mutex::default(),
            spamassassin: OnceCell::new(),
            rspamd: OnceCell::new(),
            clamav: OnceCell::new(),
            icap: scanners.engines().map(|_| OnceCell::new()).collect(),
        }
    }

    /// Without asking any scanner, from now on.
    #[must_use]
    pub fn closed(self) -> Self {
        Self { closed: true, ..self }
    }

    /// SpamAssassin and rspamd are not asked from now on; for the first reason that is given.
    pub fn spare_scores(&self, cause: Cause) {
        let _: Result<(), Cause> = self.spared_scores.set(cause);
    }

    /// No scanner is asked from now on; for the first reason that is given.
    pub fn spare(&self, cause: Cause) {
        let _: Result<(), Cause> = self.spared.set(cause);
    }

    /// Why nobody is to look at what is in the message, where somebody could.
    pub fn spared(&self) -> Option<Cause> {
        self.spared.get().copied().filter(|_| !self.closed)
    }

    /// What a scanner says, if there is one and it may be asked.
    async fn unless_spared<F>(
        &self,
        scanner: &str,
        is_there: bool,
        scores: Option<&Cause>,
        asking: impl Future<Output = Scanned<F>>,
    ) -> Scanned<F> {
        if self.closed {
            return Scanned::Unscanned(Cause::Privacy);
        }
        match self.spared.get().or(scores) {
            Some(cause) if is_there => return Scanned::Unscanned(*cause),
            Some(_) => return Scanned::Unscanned(Cause::NotConfigured),
            None => {}
        }
        let began = Instant::now();
        let scanned = asking.await;
        if scanned.is_configured() {
            let took = began.elapsed();
            self.times.lock().unwrap_or_else(PoisonError::into_inner).push((scanner.into(), took));
        }
        scanned
    }

    /// How long each scanner took by now.
    pub fn times(&self) -> Vec<(Box<str>, Duration)> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn scanners(&self) -> &'m Scanners {
        self.scanners
    }

    pub async fn spamassassin(&self) -> &Scanned {
        self.spamassassin
            .get_or_init(|| {
                let asking = self.scanners.spamassassin(self.message, self.until);
                let is_there = self.scanners.has("spamassassin");
                self.unless_spared("spamassassin", is_there, self.spared_scores.get(), asking)
            })
            .await
    }

    pub fn spamassassin_if_known(&self) -> Option<&Scanned> {
        self.spamassassin.get()
    }

    /// What SpamAssassin said before, in place of asking it: messages that are judged again, and tests.
    #[must_use]
    pub fn with_spamassassin(self, scanned: Scanned) -> Self {
        Self { spamassassin: OnceCell::new_with(Some(scanned)), ..self }
    }

    pub async fn rspamd(&self) -> &Scanned {
        self.rspamd
            .get_or_init(|| {
                let asking = self.scanners.rspamd(self.message, self.until);
                let is_there = self.scanners.has("rspamd");
                self.unless_spared("rspamd", is_there, self.spared_scores.get(), asking)
            })
            .await
    }

    pub async fn clamav(&self) -> &Scanned<Finding> {
        self.clamav
            .get_or_init(|| {
                let asking = self.scanners.clamav(self.message, self.until);
                self.unless_spared("clamav", self.scanners.has("clamav"), None, asking)
            })
            .await
    }

    /// The engine of this name in `[icap]`. None: there is none.
    pub async fn icap(&self, engine: &str) -> Option<&Scanned<Finding>> {
        let place = self.scanners.engines().position(|name| name == engine)?;
        Some(self.engine(place, self.icap.get(place)?).await)
    }

    async fn engine<'r>(
        &'r self,
        place: usize,
        cell: &'r OnceCell<Scanned<Finding>>,
    ) -> &'r Scanned<Finding> {
        cell.get_or_init(|| {
            let name = self.scanners.engines().nth(place).unwrap_or_default();
            self.unless_spared(name, true, None, self.scanners.icap(place, self.message, self.until))
        })
        .await
    }

    /// Asks ClamAV and every engine of `[icap]`, all at the same time. What each said is in [`Self::known`]; this is the first
    /// infection, in the order of the configuration.
    pub async fn infection(&self) -> Option<Said<'_>> {
        let engines = self.icap.iter().enumerate().map(|(place, cell)| {
            let ask: Asking<'_> = Box::pin(async move {
                self.engine(place, cell).await;
            });
            ask
        });
        let clamav: Asking<'_> = Box::pin(async {
            self.clamav().await;
        });
        together(std::iter::once(clamav).chain(engines)).await;
        self.known().find(|said| said.infection.is_some())
    }

    /// What is known by now of those that are configured.
    pub fn known(&self) -> impl Iterator<Item = Said<'_>> {
        let scores = [("spamassassin", &self.spamassassin), ("rspamd", &self.rspamd)];
        let scores = scores.into_iter().filter_map(|(scanner, cell)| {
            let scanned = cell.get().filter(|scanned| scanned.is_configured())?;
            let (report, unscanned) = (scanned.found(), scanned.unscanned());
            Some(Said { scanner, report, infection: None, unscanned })
        });
        let engines = self.scanners.engines().zip(&self.icap);
        let viruses =
            std::iter::once(("clamav", &self.clamav)).chain(engines).filter_map(|(scanner, cell)| {
                let scanned = cell.get().filter(|scanned| scanned.is_configured())?;
                let infection = scanned.found().and_then(Finding::infection);
                Some(Said { scanner, report: None, infection, unscanned: scanned.unscanned() })
            });
        scores.chain(viruses)
    }

    /// The class `unscanned`: one of those that were asked has not seen all of the message, or nobody was to look, for a
    /// reason that a customer can bring about. That holds without any scanner, too: files and outbreaks are not looked for.
    pub fn is_unscanned(&self) -> bool {
        let unscanned = self.known().filter_map(|said| said.unscanned);
        unscanned.chain(self.spared()).any(Cause::is_a_gap)
    }
}

type Asking<'r> = Pin<Box<dyn Future<Output = ()> + Send + 'r>>;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;
    use crate::scan::tests::message;

    /// Answers every connection the same, when it has read what ends a message, and tells how many there were.
    async fn engine(answer: &'static [u8]) -> (String, tokio::sync::watch::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (count, counted) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.send_modify(|count| *count += 1);
                let mut octets = Vec::new();
                let ends = |octets: &[u8]| octets.ends_with(&[0; 4]) || octets.ends_with(b"\r\n0\r\n\r\n");
                while !ends(&octets) && stream.read_buf(&mut octets).await.unwrap() > 0 {}
                stream.write_all(answer).await.unwrap();
            }
        });
        (address, counted)
    }

    fn scanners(sections: &str) -> Scanners {
        let text = format!("[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n{sections}");
        let config: Config = weir_daemon::config::parse("filter.toml", &text).unwrap();
        Scanners::new(&config)
    }

    #[tokio::test]
    async fn two_who_ask_at_once_get_one_scan() {
        let (address, count) = engine(b"stream: Eicar FOUND\0").await;
        let scanners = scanners(&format!("[clamav]\naddress = \"{address}\"\n"));
        let message = message();
        let results = Results::new(&message, &scanners);
        let (first, second) = tokio::join!(results.clamav(), results.clamav());
        assert_eq!((first, second), (&Scanned::Found(Finding::infected("Eicar")), first));
        let said = results.infection().await.unwrap();
        assert_eq!((said.scanner, said.infection, said.unscanned), ("clamav", Some("Eicar"), None));
        assert_eq!(*count.borrow(), 1);
        assert!(!results.is_unscanned());
        assert_eq!(results.spamassassin().await, &Scanned::Unscanned(Cause::NotConfigured));
        assert_eq!(results.known().count(), 1);
    }

    #[test]
    fn what_a_customer_has_spared_is_unscanned_without_any_scanner() {
        let (message, scanners) = (message(), Scanners::default());
        for (cause, unscanned) in [(Cause::Map, true), (Cause::Allowed, false)] {
            let results = Results::new(&message, &scanners);
            assert!(!results.is_unscanned());
            results.spare(cause);
            assert_eq!((results.is_unscanned(), results.spared()), (unscanned, Some(cause)));
            assert!(!results.closed().is_unscanned(), "nobody would have looked");
        }
    }

    #[tokio::test]
    async fn engines_are_asked_by_name_and_one_that_is_away_says_nothing() {
        let (clean, _count) = engine(b"ICAP/1.0 204 Unmodified\r\n\r\n").await;
        let (found, _counted) = engine(b"ICAP/1.0 200 OK\r\nX-Virus-ID: Eicar\r\n\r\n").await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let section = |name: &str, address: &str| {
            format!("[[icap.engines]]\nname = \"{name}\"\naddress = \"{address}\"\nservice = \"avscan\"\n")
        };
        let sections =
            [section("one", &clean), section("two", &nobody.to_string()), section("three", &found)].concat();
        let scanners = scanners(&format!("[icap]\nmax_size = 1000000\n{sections}"));
        let message = message();
        let results = Results::new(&message, &scanners);
        assert_eq!(results.icap("one").await, Some(&Scanned::Found(Finding::Clean)));
        assert_eq!(results.icap("four").await, None);
        let said = results.infection().await.unwrap();
        assert_eq!((said.scanner, said.infection), ("three", Some("Eicar")));
        let unscanned: Vec<_> =
            results.known().filter_map(|said| Some((said.scanner, said.unscanned?))).collect();
        assert_eq!(unscanned, [("two", Cause::Failed)]);
        let mut timed: Vec<String> = results.times().into_iter().map(|(name, _)| name.into()).collect();
        timed.sort_unstable();
        assert_eq!(timed, ["one", "three", "two"], "by the names of scores and infections");
        assert!(results.is_unscanned());
    }
}
