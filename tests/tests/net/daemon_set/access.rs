//! The API server as a DaemonSet's pods reach it.

use std::fs;
use std::path::PathBuf;

use ovl_tests::background::Background;
use ovl_tests::topology::SWITCH_ADDRESS;
use ovl_tests::wait::wait_for;

use crate::kubernetes::Cluster;
use crate::overlay::SOON;

/// Where the kubelet mounts what a pod knows of its cluster.
pub(super) const SERVICE_ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";
/// What the API server asks of who comes.
pub(super) const TOKEN: &str = "the-service-accounts";

/// A cluster's API server as its pods see it: by TLS, with an authority that nobody else knows, and for known tokens.
pub(super) struct Access {
    pub(super) folder: PathBuf,
    _tls: Background,
}

impl Access {
    pub(super) fn to(cluster: &Cluster) -> Self {
        let folder = cluster.topology.dir().join("serviceaccount");
        fs::create_dir(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed([SWITCH_ADDRESS.to_string()]).unwrap();
        let key = cluster.topology.dir().join("key.pem");
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::write(folder.join("ca.crt"), made.cert.pem()).unwrap();
        fs::write(folder.join("token"), TOKEN).unwrap();
        fs::write(folder.join("namespace"), "ovl").unwrap();
        cluster.server.require_token(TOKEN);
        let listen = format!(
            "OPENSSL-LISTEN:443,bind={SWITCH_ADDRESS},reuseaddr,fork,verify=0,cert={},key={}",
            folder.join("ca.crt").display(),
            key.display()
        );
        let server = cluster.server.url().replace("http://", "TCP:");
        let tls = cluster.topology.switch().unwrap().command("socat").arg(listen).arg(server);
        let tls = Background::start_unnamed(&tls).unwrap();
        let listeners = cluster.topology.switch().unwrap().command("ss").words("-Htln sport = :443");
        wait_for("the API server's TLS", SOON, || Ok(!listeners.run()?.trim().is_empty())).unwrap();
        Self { folder, _tls: tls }
    }
}
