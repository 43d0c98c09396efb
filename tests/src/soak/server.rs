//! The tapped `named`: a copy under a unique name, so that the agents follow it by name and no other server on the
//! host.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    environment,
    lab::{self, named},
    process::{Running, Watch},
};

/// Returns the name of the executable. It is unique to this run, because another run may be active on the host.
pub(crate) fn name() -> String {
    format!("named-{}", std::process::id())
}

/// A server that can be restarted.
pub(crate) struct Server {
    program: PathBuf,
    configuration: PathBuf,
    /// Address on which it answers.
    pub(crate) address: SocketAddr,
    process: Option<Running>,
}

impl Server {
    /// Starts it with its files in `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let program = folder.join(name());
        fs::copy(environment::named()?, &program).context("copying named")?;
        let port = lab::free_port()?;
        let zone = "$TTL 60\n@ SOA ns host 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n* A 192.0.2.1\n";
        let zone = lab::write(folder, "soak.zone", zone)?;
        let configuration = lab::write(
            folder,
            "named.conf",
            &format!(
                "controls {{ }};\noptions {{\n{}recursion no;\nnotify no;\ndnssec-validation no;\n\
                 listen-on port {port} {{ 127.0.0.1; }};\nlisten-on-v6 {{ none; }};\n}};\n\
                 zone \"soak.lab\" {{ type primary; file \"{}\"; }};\n",
                named::basics(folder)?,
                zone.display()
            ),
        )?;
        let process = Some(launch(&program, &configuration)?);
        Ok(Self {
            program,
            configuration,
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            process,
        })
    }

    /// Ends it regularly and starts it again. No client may be waiting for a response.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.process = Some(launch(&self.program, &self.configuration)?);
        Ok(())
    }

    /// Ends it regularly.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let process = self.process.take().context("named does not run")?;
        let finished = process.stop(libc::SIGTERM)?;
        ensure!(
            finished.status.success(),
            "named ended with {}",
            finished.status
        );
        Ok(())
    }
}

fn launch(program: &Path, configuration: &Path) -> Result<Running> {
    let mut command = Command::new(program);
    command.args(["-g", "-n", "2", "-c"]).arg(configuration);
    let mut process = Running::start(&name(), command, Watch::Stderr)?;
    let (what, running) = named::RUNNING;
    process.wait_for(what, running)?;
    Ok(process)
}
