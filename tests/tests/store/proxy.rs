//! A network between an agent and its etcd that can be cut, or is slow.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Passes connections on until it is cut, and again when it is mended.
pub(crate) struct Proxy {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// In front of an `http://` URL.
    pub(crate) fn before(url: &str) -> Self {
        Self::start(url, None)
    }

    /// The same, over a link that brings so many bytes in a tenth of a second.
    pub(crate) fn slowly_before(url: &str, bytes: usize) -> Self {
        Self::start(url, Some(bytes))
    }

    fn start(url: &str, pace: Option<usize>) -> Self {
        let target = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { url: format!("http://{}", listener.local_addr().unwrap()), state: Arc::default() };
        let state = Arc::clone(&proxy.state);
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut state = state.lock().unwrap();
                if !state.is_cut
                    && let Ok(server) = TcpStream::connect(&target)
                {
                    pass(&client, &server, None);
                    pass(&server, &client, pace);
                    state.open.extend([client, server]);
                }
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Breaks all connections and lets none come about.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        for stream in state.open.drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}

/// Copies one way until either end is closed.
fn pass(from: &TcpStream, to: &TcpStream, pace: Option<usize>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let _ = match pace {
            None => io::copy(&mut from, &mut to).map(drop),
            Some(bytes) => copy_slowly(&mut from, &mut to, bytes),
        };
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[expect(clippy::disallowed_methods, reason = "it is the link's slowness that is wanted")]
fn copy_slowly(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; bytes];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length])?;
        thread::sleep(Duration::from_millis(100));
    }
}
