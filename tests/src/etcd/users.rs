//! etcd's own authentication.

use anyhow::Result;

use super::Etcd;

impl Etcd {
    /// Switches authentication on, with all rights for `root`; [`Etcd::etcdctl`] is `root` from now on.
    pub fn enable_auth(&mut self, password: &str) -> Result<()> {
        self.etcdctl().args(["user", "add", &format!("root:{password}")]).run()?;
        self.etcdctl().words("user grant-role root root").run()?;
        self.etcdctl().words("auth enable").run()?;
        self.password = Some(password.to_owned());
        Ok(())
    }

    /// Adds a user who may read and write what is below `prefix`.
    pub fn add_user(&self, name: &str, password: &str, prefix: &str) -> Result<()> {
        self.etcdctl().args(["user", "add", &format!("{name}:{password}")]).run()?;
        self.etcdctl().args(["role", "add", name]).run()?;
        self.grant(name, prefix)?;
        self.etcdctl().args(["user", "grant-role", name, name]).run()?;
        Ok(())
    }

    /// Lets a user that was added before read and write what is below `prefix`, too.
    pub fn grant(&self, name: &str, prefix: &str) -> Result<()> {
        let grant = ["role", "grant-permission", name, "readwrite", "--prefix=true", prefix];
        self.etcdctl().args(grant).run()?;
        Ok(())
    }

    /// Gives a user another password; neither may hold what a shell would not take literally.
    pub fn set_password(&self, name: &str, password: &str) -> Result<()> {
        // etcdctl reads it from its input.
        let passwd = self.etcdctl().words("user passwd --interactive=false").arg(name);
        self.place
            .command("sh")
            .arg("-c")
            .arg(format!("echo {password} | {passwd}"))
            .env("ETCDCTL_API", "3")
            .run()?;
        Ok(())
    }
}
