//! How to reach an etcd cluster.

use std::fmt;
use std::path::PathBuf;

/// flannel's `--etcd-…` flags. An empty value is as good as none.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// URLs of the members. `https://` asks for TLS, member by member; a member without a scheme gets TLS where any
    /// of the three files is given.
    pub endpoints: Vec<String>,
    /// What the network's keys begin with.
    pub prefix: String,
    /// PEM file with the key of `certfile`.
    pub keyfile: Option<PathBuf>,
    /// PEM file with the certificate that we show, and those between it and its CA.
    pub certfile: Option<PathBuf>,
    /// PEM file with the CAs that may have signed the members' certificates; without it, those that the system trusts.
    /// All three files are read anew for each connection, so a rotated certificate takes effect with the next one.
    pub cafile: Option<PathBuf>,
    /// User of etcd's own authentication.
    pub username: Option<String>,
    /// That user's password; never shown, not by `Debug` either.
    pub password: Option<String>,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, prefix, keyfile, certfile, cafile, username, password } = self;
        f.debug_struct("EtcdOptions")
            .field("endpoints", &without_credentials(&endpoints.join(",")))
            .field("prefix", prefix)
            .field("keyfile", keyfile)
            .field("certfile", certfile)
            .field("cafile", cafile)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "…"))
            .finish()
    }
}

/// A text that somebody may have written a user and a password into, as it may be shown: what stands before the last
/// `@` is left out, whatever it looks like. A password may hold what ends a URL's authority, or a list's item.
pub(crate) fn without_credentials(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_secret, rest)) => format!("***@{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_cut_out() {
        let table = [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("https://me:secret@127.0.0.1:2379", "***@127.0.0.1:2379"),
            ("me:secret@host", "***@host"),
            ("https://me:s@cret@[::1]:2379", "***@[::1]:2379"),
            ("https://me:sec/ret@host", "***@host"),
            ("https://me:sec?r#t@host", "***@host"),
            ("https://a,https://me:sec,ret@b,https://c", "***@b,https://c"),
        ];
        for (url, name) in table {
            assert_eq!(without_credentials(url), name);
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let options = EtcdOptions {
            // As a list is split that has a comma in a password.
            endpoints: vec!["https://me:open".to_owned(), "sesame@host:2379".to_owned()],
            username: Some("me".to_owned()),
            password: Some("sesame".to_owned()),
            ..EtcdOptions::default()
        };
        let text = format!("{options:?} {options:#?}");
        assert!(
            !text.contains("open") && !text.contains("sesame") && text.contains("***@host:2379"),
            "{text}"
        );
    }
}
