use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Client, Failure, Limits, Token};

const LIMITS: Limits = Limits { time: Duration::from_millis(500), body: 64 };

/// A service that says `answer` to whoever asks, and gives what it was asked.
async fn ask(answer: &'static str) -> (Result<(u16, Bytes), Failure>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let length = stream.read(&mut asked).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        if answer.is_empty() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    let request = Request::get(format!("http://{address}/who?ip=10.1.0.2")).body(Full::default()).unwrap();
    let answered = Client::clear().fetch(request, LIMITS).await;
    let asked = if answer.is_empty() { String::new() } else { service.await.unwrap() };
    (answered.map(|answer| (answer.status().as_u16(), answer.into_body())), asked)
}

#[tokio::test]
async fn a_request_and_its_answer() {
    let (answered, asked) = ask("HTTP/1.1 404 Nobody\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(answered.unwrap(), (404, Bytes::from_static(b"no")));
    assert!(asked.starts_with("GET /who?ip=10.1.0.2 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: 127.0.0.1:") && asked.contains("connection: close"), "{asked}");
}

#[tokio::test]
async fn what_is_no_answer() {
    for (answer, words) in [
        ("", "no answer within 500 ms"),
        ("220 mail.example ESMTP\r\n", "HTTP: "),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "broke off"),
        (
            concat!(
                "HTTP/1.1 200 OK\r\n\r\n",
                "A provider that answers with more than was agreed upon is cut off here."
            ),
            "longer than 64 octets",
        ),
    ] {
        let error = ask(answer).await.0.unwrap_err().to_string();
        assert!(error.contains(words), "{answer:?}: {error}");
    }
    for (url, words) in [
        ("http://127.0.0.1:1/", "connect: "),
        ("ftp://127.0.0.1/", "no address of a service"),
        ("/path", "no address of a service"),
        ("https://127.0.0.1:1/", "connect: "),
    ] {
        let request = Request::get(url).body(Full::default()).unwrap();
        let error = Client::clear().fetch(request, LIMITS).await.unwrap_err().to_string();
        assert!(error.contains(words), "{url}: {error}");
    }
}

#[test]
fn tokens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let read = |content: &str, mode| {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Token::read(&path).map_err(|error| error.to_string())
    };
    let secret = "0123456789abcdef0123456789abcdef";
    for (content, mode, words) in [
        ("short\n", 0o600, "5 octets; a token has 32"),
        (secret, 0o604, "others than its owner"),
        (secret, 0o660, "(mode 660): chmod 600"),
        ("0123456789abcdef 0123456789abcdef", 0o600, "printable"),
    ] {
        let error = read(content, mode).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let token = read(&format!("{secret}\n"), 0o640).unwrap();
    assert_eq!(format!("{token:?}"), "Token");
    let is = |value: &str| token.is_in(Some(&HeaderValue::from_str(value).unwrap()));
    assert!(token.is_in(Some(&token.authorization())));
    assert!(is(&format!("Bearer {secret}")) && !token.is_in(None));
    for wrong in [secret, "Bearer ", "Bearer 0123456789abcdef0123456789abcdee", "Basic x"] {
        assert!(!is(wrong), "{wrong}");
    }
    assert!(!is(&format!("Bearer {secret}0")));
}
