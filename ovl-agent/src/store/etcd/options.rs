//! How to reach an etcd cluster.

use std::fmt;
use std::path::{Path, PathBuf};

/// flannel's `--etcd-…` flags. An empty value is as good as none.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// URLs of the members. `https://` asks for TLS, member by member; a member without a scheme gets TLS where
    /// certificate and key are given, as with flannel.
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

impl EtcdOptions {
    /// Whether what only works together is given together; [`super::EtcdStore::connect`] asks as well.
    ///
    /// # Errors
    /// One sentence that names both flags.
    pub fn check(&self) -> Result<(), String> {
        self.user()?;
        self.client_certificate()?;
        Ok(())
    }

    /// Name and password.
    pub(super) fn user(&self) -> Result<Option<(&str, &str)>, String> {
        together(
            ("--etcd-username", text(self.username.as_deref())),
            (
                "the password of --etcd-username (FLANNELD_ETCD_PASSWORD or --etcd-password)",
                text(self.password.as_deref()),
            ),
        )
    }

    /// The files of our certificate and its key.
    pub(super) fn client_certificate(&self) -> Result<Option<(&Path, &Path)>, String> {
        together(
            ("--etcd-certfile", file(self.certfile.as_deref())),
            ("--etcd-keyfile", file(self.keyfile.as_deref())),
        )
    }

    /// The file of the members' CAs.
    pub(super) fn authorities(&self) -> Option<&Path> {
        file(self.cafile.as_deref())
    }
}

fn text(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn file(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !path.as_os_str().is_empty())
}

fn together<T>(one: (&str, Option<T>), other: (&str, Option<T>)) -> Result<Option<(T, T)>, String> {
    let lonely = |given, missing| format!("{given} is given, {missing} is missing; they only work together");
    match (one.1, other.1) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(lonely(one.0, other.0)),
        (None, Some(_)) => Err(lonely(other.0, one.0)),
    }
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
    fn what_only_works_together_is_refused_alone() {
        let with = |username: &str, password: &str, certfile: &str, keyfile: &str| EtcdOptions {
            username: Some(username.to_owned()),
            password: Some(password.to_owned()),
            certfile: Some(certfile.into()),
            keyfile: Some(keyfile.into()),
            ..EtcdOptions::default()
        };
        let whole = [EtcdOptions::default(), with("", "", "", ""), with("me", "sesame", "/c", "/k")];
        assert!(whole.iter().all(|options| options.check().is_ok()));
        let table = [
            (with("me", "", "", ""), "--etcd-username is given, the password of --etcd-username"),
            (with("", "sesame", "", ""), "--etcd-username is missing"),
            (with("", "", "/c", ""), "--etcd-certfile is given, --etcd-keyfile is missing"),
            (with("", "", "", "/k"), "--etcd-keyfile is given, --etcd-certfile is missing"),
        ];
        for (options, expected) in table {
            let error = options.check().expect_err(expected);
            assert!(error.contains(expected) && !error.contains("sesame"), "{error}");
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
