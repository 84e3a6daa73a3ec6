//! Every byte of a transfer, by hash.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::wait_for_listener;
use crate::background::Background;
use crate::command::Cmd;
use crate::pod::Pod;

const PORT: u16 = 5301;
const DEADLINE: Duration = Duration::from_mins(1);

/// Sends `bytes` random bytes over TCP and compares what arrives with what was sent. Works in files below `dir`.
pub fn tcp_intact(client: &Pod, server: &Pod, bytes: u64, dir: &Path) -> Result<()> {
    let (sent, arrived) = (dir.join("sent"), dir.join("arrived"));
    let mut random = File::open("/dev/urandom").context("open /dev/urandom")?.take(bytes);
    let mut file = File::create(&sent).with_context(|| format!("create {}", sent.display()))?;
    std::io::copy(&mut random, &mut file).context("write random bytes")?;
    let address = server.address();
    let receive_command = server
        .netns()
        .command("socat")
        .args(["-u".to_owned(), format!("TCP-LISTEN:{PORT},bind={address},reuseaddr")])
        .arg(format!("CREATE:{}", arrived.display()));
    let mut receiving = Background::start_unnamed(&receive_command)?;
    wait_for_listener(server.netns(), address, PORT, &mut receiving)?;
    let send_command = client
        .netns()
        .command("socat")
        .arg("-u")
        .arg(format!("OPEN:{}", sent.display()))
        .arg(format!("TCP:{address}:{PORT}"));
    let mut sending = Background::start_unnamed(&send_command)?;
    ensure!(sending.wait(DEADLINE)?.success(), "socat could not send: {}", sending.log());
    ensure!(receiving.wait(DEADLINE)?.success(), "socat could not receive: {}", receiving.log());
    let hash = |path: &Path| -> Result<String> {
        let line = Cmd::host("sha256sum").arg(path).run()?;
        Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let (before, after) = (hash(&sent)?, hash(&arrived)?);
    ensure!(before == after, "{bytes} bytes arrived changed: {before} became {after}");
    Ok(())
}
