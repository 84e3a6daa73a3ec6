//! The other machine, which does the same at the same time: both wait for each other where one needs what the other did.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ovl_tests::node::Node;
use ovl_tests::wait::wait_for;

const PORT: u16 = 7000;
/// The other may be booting, or waiting for something that does not come.
const PATIENCE: Duration = Duration::from_secs(100);

/// A connection to the same test on the other machine.
pub(crate) struct Partner {
    stream: BufReader<TcpStream>,
}

impl Partner {
    /// Waits for the other to come.
    pub(crate) fn expect(node: &Node) -> Result<Self> {
        let bind = || TcpListener::bind((node.address(), PORT));
        let listener = node.netns().inside(bind)?.context("listen for the other machine")?;
        listener.set_nonblocking(true)?;
        let mut stream = None;
        wait_for("the other machine to come", PATIENCE, || {
            stream = listener.accept().ok().map(|(stream, _)| stream);
            Ok(stream.is_some())
        })?;
        Self::with(stream.context("the other machine came")?)
    }

    /// Comes to the other.
    pub(crate) fn seek(node: &Node, other: SocketAddr) -> Result<Self> {
        let mut stream = None;
        wait_for(&format!("{other} to be there"), PATIENCE, || {
            let connect = || TcpStream::connect_timeout(&other, Duration::from_secs(1));
            stream = node.netns().inside(connect)?.ok();
            Ok(stream.is_some())
        })?;
        Self::with(stream.context("the other machine is there")?)
    }

    /// Where it listens on a node of the address `to`.
    pub(crate) fn place(to: std::net::IpAddr) -> SocketAddr {
        SocketAddr::new(to, PORT)
    }

    fn with(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Returns once both are at this point.
    pub(crate) fn meet(&mut self, point: &str) -> Result<()> {
        writeln!(self.stream.get_mut(), "{point}").context("tell the other machine")?;
        let mut line = String::new();
        self.stream
            .read_line(&mut line)
            .with_context(|| format!("wait for the other machine at '{point}'"))?;
        ensure!(line.trim_end() == point, "the other machine is at '{}', not at '{point}'", line.trim_end());
        Ok(())
    }
}
