//! The whole suite against an etcd with TLS both ways and users.

use ovl_agent::store::etcd::{EtcdOptions, EtcdStore};

use crate::etcd::{PREFIX, options};
use crate::fixture::Fixture;
use crate::tls::Secured;

crate::conformance!(SecuredEtcd);

const USER: &str = "flannel";
const PASSWORD: &str = "open-sesame";

struct SecuredEtcd(Secured);

impl SecuredEtcd {
    fn options(&self) -> EtcdOptions {
        EtcdOptions {
            username: Some(USER.to_owned()),
            password: Some(PASSWORD.to_owned()),
            ..self.0.options_as(&self.0.client)
        }
    }
}

impl Fixture for SecuredEtcd {
    type Store = EtcdStore;

    fn start() -> Self {
        let mut secured = Secured::start(true);
        secured.server.add_user(USER, PASSWORD, PREFIX).unwrap();
        secured.server.enable_auth("root-password").unwrap();
        Self(secured)
    }

    async fn open(&self) -> EtcdStore {
        EtcdStore::connect(&self.options()).await.unwrap()
    }

    fn put(&self, item: &str, value: &str) {
        self.0.server.put(&format!("{PREFIX}/{item}"), value).unwrap();
    }

    fn delete(&self, item: &str) {
        self.0.server.delete(&format!("{PREFIX}/{item}")).unwrap();
    }

    fn begin_outage(&mut self) {
        self.0.server.kill().unwrap();
    }

    fn end_outage(&mut self) {
        self.0.server.start_again().unwrap();
    }

    fn address(&self) -> String {
        let options = self.options();
        let files = [options.cafile, options.certfile, options.keyfile];
        let files: Vec<_> = files.iter().flatten().map(|path| path.display().to_string()).collect();
        format!("{} {}", self.0.server.url(), files.join(" "))
    }
}

/// Reads the address of a store: a URL, or one with the files to use there.
pub(crate) fn options_at(address: &str) -> EtcdOptions {
    let mut words = address.split(' ');
    let plain = options(&[words.next().unwrap()]);
    let mut file = || words.next().map(Into::into);
    let Some(ca) = file() else { return plain };
    EtcdOptions {
        cafile: Some(ca),
        certfile: file(),
        keyfile: file(),
        username: Some(USER.to_owned()),
        password: Some(PASSWORD.to_owned()),
        ..plain
    }
}
