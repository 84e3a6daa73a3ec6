//! A network between an agent and its etcd that can be cut, lose an answer, or is slow.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// What the next request whose answer is to be lost holds.
    doomed: Option<&'static str>,
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
        let proxied = Arc::clone(&proxy.state);
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut state = proxied.lock().unwrap();
                if !state.is_cut
                    && let Ok(server) = TcpStream::connect(&target)
                {
                    let is_deaf = Arc::new(AtomicBool::new(false));
                    let requests = Arc::clone(&proxied);
                    let hears = Arc::clone(&is_deaf);
                    pass(&client, &server, None, move |bytes| {
                        if requests.lock().unwrap().is_doomed(bytes) {
                            hears.store(true, Ordering::SeqCst);
                        }
                        true
                    });
                    pass(&server, &client, pace, move |_| !is_deaf.load(Ordering::SeqCst));
                    state.open.extend([client, server]);
                }
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Passes on the next request that holds `text`, and from then on no answer over its connection.
    pub(crate) fn lose_answer_to(&self, text: &'static str) {
        self.state.lock().unwrap().doomed = Some(text);
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

impl State {
    /// Whether this is the request.
    fn is_doomed(&mut self, bytes: &[u8]) -> bool {
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        self.doomed.take_if(|text| holds(text)).is_some()
    }
}

/// Copies one way what `passes`, until either end is closed; so many bytes in a tenth of a second where there is a `pace`.
#[expect(clippy::disallowed_methods, reason = "it is the link's slowness that is wanted")]
fn pass(
    from: &TcpStream,
    to: &TcpStream,
    pace: Option<usize>,
    passes: impl Fn(&[u8]) -> bool + Send + 'static,
) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; pace.unwrap_or(1 << 16)];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..length];
            if passes(bytes) && to.write_all(bytes).is_err() {
                break;
            }
            if pace.is_some() {
                thread::sleep(Duration::from_millis(100));
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
