//! The threads of a waypoint beside those for data: control, the plain ports, and the watchdog over all.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::admin::server::PlainPorts;
use crate::process::vitals::{LastResort, Vitals};
use crate::run::control::Control;

/// For the threads to end.
const STOPPING: Duration = Duration::from_secs(2);

/// The threads beside those for data, and what ends each.
pub(crate) struct Threads {
    control: (oneshot::Sender<()>, thread::JoinHandle<()>),
    ports: (oneshot::Sender<()>, thread::JoinHandle<()>),
    /// Dropped, it ends the watchdog.
    _watchdog: mpsc::Sender<()>,
}

impl Threads {
    /// Starts them, and the watchdog over them and the current runtime's workers.
    pub(crate) fn start(
        ports: PlainPorts,
        control: Control,
        vitals: &Vitals,
        last_resort: LastResort,
    ) -> io::Result<Threads> {
        let (stop_ports, stopped) = oneshot::channel();
        let ports = ports.start(stopped)?;
        let (stop_control, stopped) = oneshot::channel();
        let control = thread::Builder::new()
            .name("control".into())
            .spawn(move || control.run(stopped))?;
        let (watchdog, stopped) = mpsc::channel();
        vitals.watch(&Handle::current(), last_resort, stopped)?;
        Ok(Threads {
            control: (stop_control, control),
            ports: (stop_ports, ports),
            _watchdog: watchdog,
        })
    }

    /// Ends them. They end at once, unless manifests are being read: not for ever, then.
    pub(crate) fn stop(self) {
        let threads = [self.control, self.ports].map(|(stop, thread)| {
            let _ = stop.send(());
            thread
        });
        let deadline = Instant::now() + STOPPING;
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}
