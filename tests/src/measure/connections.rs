//! Connections a second: opened, greeted, and gone.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use socket2::{Domain, SockRef, Socket, Type};
use weir_tests::lab::Lab;

const CUSTOMERS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the connections go.
const DESTINATION: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 3));

/// A server that greets, and closes. Ends when dropped.
pub struct Greeters(TcpListener);

impl Greeters {
    pub fn start(lab: &Lab) -> Result<Self> {
        let interface = "$(ip -o -4 address show to 10.2.0.2 | awk '{print $2}')";
        lab.internet.sh(&format!("ip address add {DESTINATION}/24 dev {interface}"))?;
        let listener = lab.internet.in_network(|| Ok(TcpListener::bind((DESTINATION, 25))?))?;
        for _ in 0..CUSTOMERS {
            let listener = listener.try_clone()?;
            thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    // One that is gone already needs no greeting.
                    let _ = stream.write_all(b"220 mx.destination.test ESMTP\r\n");
                    let _ = stream.read(&mut [0; 512]);
                }
            });
        }
        Ok(Self(listener))
    }
}

impl Drop for Greeters {
    fn drop(&mut self) {
        // Wakes the threads, whose socket would keep the host's network alive.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

/// Connections a second of the other customers while one floods with SYNs, to this port of the destination.
pub fn beside_flood(lab: &Lab, flooder: IpAddr, port: u16, seconds: u64) -> Result<f64> {
    let over = AtomicBool::new(false);
    let flood = || {
        lab.customer.in_network(|| {
            while !over.load(Ordering::Relaxed) {
                let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
                socket.bind(&SocketAddr::new(flooder, 0).into())?;
                // Nobody waits for an answer.
                let _ = socket.connect(&SocketAddr::new(DESTINATION, port).into());
            }
            Ok(())
        })
    };
    thread::scope(|scope| {
        let flood = scope.spawn(flood);
        let found = measure(lab, seconds);
        over.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow!("a panic"))??;
        found
    })
}

/// Connections a second, of so many customers at a time.
pub fn measure(lab: &Lab, seconds: u64) -> Result<f64> {
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let customer = || {
        lab.customer.in_network(|| {
            let mut count = 0_u32;
            while Instant::now() < end {
                let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::new(DESTINATION, 25), PATIENCE)
                else {
                    continue;
                };
                stream.set_read_timeout(Some(PATIENCE))?;
                // Closed by a reset, so that the port is free at once.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                count += u32::from(stream.read(&mut [0; 512])? > 0);
            }
            Ok(count)
        })
    };
    let made = thread::scope(|scope| -> Result<u32> {
        let customers: Vec<_> = (0..CUSTOMERS).map(|_| scope.spawn(customer)).collect();
        customers.into_iter().map(|customer| customer.join().map_err(|_| anyhow!("a panic"))?).sum()
    })?;
    Ok(f64::from(made) / begin.elapsed().as_secs_f64())
}
