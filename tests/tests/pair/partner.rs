//! The other machine, which does the same at the same time: both wait for each other where one needs what the other did.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ovl_tests::node::Node;
use ovl_tests::wait::wait_for;

const PORT: u16 = 7000;
/// A connection that comes about does so in this time.
const GREETING: Duration = Duration::from_secs(10);
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
        Self::greeted("the other machine to come", || Ok(listener.accept()?.0))
    }

    /// Comes to the other.
    pub(crate) fn seek(node: &Node, other: SocketAddr) -> Result<Self> {
        let connect = || TcpStream::connect_timeout(&other, GREETING);
        Self::greeted(&format!("{other} to be there"), || Ok(node.netns().inside(connect)??))
    }

    /// The first connection on which both have heard each other: the other may have given one up before.
    fn greeted(what: &str, connect: impl Fn() -> Result<TcpStream>) -> Result<Self> {
        let mut partner = None;
        wait_for(what, PATIENCE, || {
            let stream = connect()?;
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(GREETING))?;
            let mut greeted = Self { stream: BufReader::new(stream) };
            greeted.meet("hello")?;
            greeted.stream.get_ref().set_read_timeout(Some(PATIENCE))?;
            partner = Some(greeted);
            Ok(true)
        })?;
        partner.context("nobody was greeted")
    }

    /// Where it listens on a node of the address `to`.
    pub(crate) fn place(to: std::net::IpAddr) -> SocketAddr {
        SocketAddr::new(to, PORT)
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
