//! A client: as much HTTP/1.1 as it takes to see what a proxy's client sees.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Longer than any timeout of a proxy here.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back for one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) path: String,
    /// 0 when no response came.
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) took: Duration,
    /// When it had come.
    pub(crate) at: SystemTime,
}

impl Answer {
    pub(crate) fn failed(&self) -> bool {
        matches!(self.status, 0 | 502..=504)
    }
}

/// A connection to the proxy that stays open between requests.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    sent: Option<(String, Instant)>,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream: BufReader::new(stream),
            sent: None,
        })
    }

    pub(crate) fn send(&mut self, method: &str, path: &str) -> io::Result<()> {
        let body = if method == "POST" {
            "{\"items\":1}"
        } else {
            ""
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.sent = Some((path.to_owned(), Instant::now()));
        self.stream.get_mut().write_all(request.as_bytes())
    }

    pub(crate) fn receive(&mut self) -> Answer {
        let (path, start) = self
            .sent
            .take()
            .unwrap_or_else(|| (String::new(), Instant::now()));
        let (status, body) = read_response(&mut self.stream).unwrap_or((0, String::new()));
        Answer {
            path,
            status,
            body,
            took: start.elapsed(),
            at: SystemTime::now(),
        }
    }
}

/// One request on a connection of its own.
pub(crate) fn request(to: SocketAddr, method: &str, path: &str) -> Answer {
    let start = Instant::now();
    match Connection::open(to).and_then(|mut connection| {
        connection.send(method, path)?;
        Ok(connection.receive())
    }) {
        Ok(answer) => answer,
        Err(_) => Answer {
            path: path.to_owned(),
            status: 0,
            body: String::new(),
            took: start.elapsed(),
            at: SystemTime::now(),
        },
    }
}

/// Many requests at once, spread evenly over `within`.
pub(crate) fn burst(
    to: SocketAddr,
    method: &'static str,
    paths: Vec<String>,
    within: Duration,
) -> Vec<Answer> {
    let start = Instant::now();
    let count = u32::try_from(paths.len()).unwrap_or(u32::MAX).max(1);
    let clients: Vec<_> = paths
        .into_iter()
        .zip(0u32..)
        .map(|(path, number)| {
            thread::spawn(move || {
                let at = start + within * number / count;
                thread::sleep(at.saturating_duration_since(Instant::now()));
                request(to, method, &path)
            })
        })
        .collect();
    clients
        .into_iter()
        .filter_map(|client| client.join().ok())
        .collect()
}

/// An address on loopback that nobody uses. Another program may take it before it is used; then
/// the server meant for it does not start, and says so.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The status and the body of one response.
fn read_response(stream: &mut impl BufRead) -> Option<(u16, String)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let status = line
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .trim()
        .parse()
        .ok()?;
    let mut length = None;
    let mut chunked = false;
    loop {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.trim().split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<u64>().ok(),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            stream.read_line(&mut line).ok()?;
            let size = u64::from_str_radix(line.trim(), 16).ok()?;
            stream.take(size).read_to_end(&mut body).ok()?;
            line.clear();
            stream.read_line(&mut line).ok()?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        stream.take(length).read_to_end(&mut body).ok()?;
    } else {
        stream.read_to_end(&mut body).ok()?;
    }
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_with_a_length_and_in_chunks() {
        let mut two = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno\
                       HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n"
            .as_bytes();
        assert_eq!(read_response(&mut two), Some((502, "no".to_owned())));
        assert_eq!(read_response(&mut two), Some((200, "yes".to_owned())));
    }

    #[test]
    fn a_response_cut_short_is_none() {
        for text in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 200 OK\r\nServer: x\r\n",
            "garbage\r\n\r\n",
        ] {
            assert_eq!(read_response(&mut text.as_bytes()), None, "{text:?}");
        }
    }
}
