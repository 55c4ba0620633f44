//! A file of machines: YAML in (JSON is YAML), what to create out. The names are those of the JSON output.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display},
    marker::PhantomData,
    path::{Path, PathBuf, absolute},
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor},
};

use crate::{
    cli::values,
    names::Spelled,
    v1::{self, CpuModel, DiskFormat, ErrorPolicy, IoEngine, RestartMode, VirtioTransport},
};

/// What its users say of a machine.
pub(super) type Labels = BTreeMap<String, String>;

/// A machine as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) definition: v1::VmDefinition,
    /// It is created paused. Of one that exists this says nothing.
    pub(super) paused: bool,
}

/// Reads a list of machines. Relative paths are meant from `directory`.
pub(super) fn read(text: &str, directory: &Path) -> Result<Vec<Spec>, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    // A file without anything in it is a list of nothing.
    let machines: Option<Vec<Machine>> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    let directory = absolute(directory).map_err(|error| error.to_string())?;
    let mut names = HashSet::new();
    let mut specs = Vec::new();
    for machine in machines.unwrap_or_default() {
        if !names.insert(machine.name.clone()) {
            return Err(format!("there are two machines called '{}'", machine.name));
        }
        specs.push(machine.spec(&directory));
    }
    Ok(specs)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    name: String,
    #[serde(default)]
    labels: Labels,
    memory_bytes: Option<Size>,
    vcpus: Option<u32>,
    firmware: Option<PathBuf>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    cmdline: Option<String>,
    serial_socket: Option<PathBuf>,
    qmp_socket: Option<PathBuf>,
    cpu_model: Option<Word<CpuModel>>,
    cpu_template: Option<PathBuf>,
    #[serde(default)]
    cpu_pins: Vec<Pin>,
    cpu_weight: Option<u32>,
    cpu_limit_millis: Option<u32>,
    #[serde(default)]
    disks: Vec<Disk>,
    #[serde(default)]
    nets: Vec<Net>,
    #[serde(default)]
    rng: bool,
    vsock: Option<Vsock>,
    balloon: Option<Balloon>,
    #[serde(default)]
    console_ports: Vec<ConsolePort>,
    virtio_transport: Option<Word<VirtioTransport>>,
    actions: Option<Actions>,
    restart: Option<Restart>,
    #[serde(default)]
    paused: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    vcpu: u32,
    host_cpus: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    path: PathBuf,
    #[serde(default)]
    read_only: bool,
    serial: Option<String>,
    rerror: Option<Word<ErrorPolicy>>,
    werror: Option<Word<ErrorPolicy>>,
    format: Option<Word<DiskFormat>>,
    queues: Option<u32>,
    aio: Option<Word<IoEngine>>,
    rate_limit: Option<RateLimit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Net {
    tap: Option<String>,
    passt: Option<PathBuf>,
    mac: Option<String>,
    mtu: Option<u32>,
    queues: Option<u32>,
    #[serde(default)]
    link_down: bool,
    rx_rate_limit: Option<RateLimit>,
    tx_rate_limit: Option<RateLimit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    bps: Option<Size>,
    bps_burst: Option<Size>,
    iops: Option<Size>,
    iops_burst: Option<Size>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vsock {
    cid: u32,
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Balloon {
    size_bytes: Option<Size>,
    #[serde(default)]
    stats_interval_seconds: u32,
    #[serde(default)]
    deflate_on_oom: bool,
    #[serde(default)]
    free_page_reporting: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsolePort {
    name: String,
    path: PathBuf,
    #[serde(default)]
    console: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Actions {
    reboot: Option<Word<v1::RebootAction>>,
    shutdown: Option<Word<v1::ShutdownAction>>,
    panic: Option<Word<v1::PanicAction>>,
    watchdog: Option<Word<v1::WatchdogAction>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    // Without one a policy would do nothing.
    mode: Word<RestartMode>,
    max: Option<u32>,
    backoff: Option<Seconds>,
    max_backoff: Option<Seconds>,
}

impl Machine {
    fn spec(self, directory: &Path) -> Spec {
        let path = |path: PathBuf| directory.join(path).to_string_lossy().into_owned();
        let some = |given: Option<PathBuf>| given.map(path).unwrap_or_default();
        let disk = |disk: Disk| v1::Disk {
            path: path(disk.path),
            read_only: disk.read_only,
            serial: disk.serial.unwrap_or_default(),
            rerror: raw(disk.rerror),
            werror: raw(disk.werror),
            format: raw(disk.format),
            queues: disk.queues,
            io_engine: raw(disk.aio),
            rate_limit: disk.rate_limit.map(RateLimit::message),
        };
        let net = |net: Net| v1::Net {
            backend: match (net.tap, net.passt) {
                (Some(tap), _) => Some(v1::net::Backend::Tap(tap)),
                (None, passt) => passt.map(|socket| v1::net::Backend::Passt(path(socket))),
            },
            mac: net.mac.unwrap_or_default().to_ascii_lowercase(),
            mtu: net.mtu,
            queues: net.queues,
            link_down: net.link_down,
            rx_rate_limit: net.rx_rate_limit.map(RateLimit::message),
            tx_rate_limit: net.tx_rate_limit.map(RateLimit::message),
        };
        let definition = v1::VmDefinition {
            memory_bytes: self.memory_bytes.map(|Size(bytes)| bytes),
            vcpus: self.vcpus,
            firmware: some(self.firmware),
            actions: self.actions.map(|set| v1::Actions {
                reboot: raw(set.reboot),
                shutdown: raw(set.shutdown),
                panic: raw(set.panic),
                watchdog: raw(set.watchdog),
            }),
            serial_socket: some(self.serial_socket),
            qmp_socket: some(self.qmp_socket),
            kernel: some(self.kernel),
            initrd: some(self.initrd),
            cmdline: self.cmdline.unwrap_or_default(),
            cpu_model: raw(self.cpu_model),
            cpu_template: some(self.cpu_template),
            cpu_pins: self.cpu_pins.into_iter().map(Pin::message).collect(),
            cpu_weight: self.cpu_weight,
            cpu_limit_millis: self.cpu_limit_millis,
            disks: self.disks.into_iter().map(disk).collect(),
            rng: self.rng,
            nets: self.nets.into_iter().map(net).collect(),
            vsock: self.vsock.map(|vsock| v1::Vsock {
                cid: vsock.cid,
                path: path(vsock.path),
            }),
            balloon: self.balloon.map(Balloon::message),
            console_ports: self
                .console_ports
                .into_iter()
                .map(|port| v1::ConsolePort {
                    name: port.name,
                    path: path(port.path),
                    console: port.console,
                })
                .collect(),
            virtio_transport: raw(self.virtio_transport),
            restart: self.restart.map(Restart::message),
        };
        Spec {
            name: self.name,
            labels: self.labels,
            definition,
            paused: self.paused,
        }
    }
}

impl Pin {
    fn message(self) -> v1::CpuPin {
        let Self { vcpu, host_cpus } = self;
        v1::CpuPin { vcpu, host_cpus }
    }
}

impl RateLimit {
    fn message(self) -> v1::RateLimit {
        let number = |size: Option<Size>| size.map_or(0, |Size(number)| number);
        v1::RateLimit {
            bytes_per_second: number(self.bps),
            bytes_burst: number(self.bps_burst),
            ops_per_second: number(self.iops),
            ops_burst: number(self.iops_burst),
        }
    }
}

impl Balloon {
    fn message(self) -> v1::BalloonDevice {
        v1::BalloonDevice {
            size_bytes: self.size_bytes.map(|Size(bytes)| bytes),
            stats_interval_seconds: self.stats_interval_seconds,
            deflate_on_oom: self.deflate_on_oom,
            free_page_reporting: self.free_page_reporting,
        }
    }
}

impl Restart {
    fn message(self) -> v1::RestartPolicy {
        v1::RestartPolicy {
            mode: raw(Some(self.mode)),
            max_restarts: self.max.unwrap_or_default(),
            initial_backoff: self.backoff.map(|Seconds(time)| time),
            max_backoff: self.max_backoff.map(|Seconds(time)| time),
        }
    }
}

/// A number of seconds, or text such as `2m`.
struct Seconds(prost_types::Duration);

impl Seconds {
    fn new<E: serde::de::Error>(time: Duration) -> Result<Self, E> {
        time.try_into().map(Self).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds, or one with ms, s, m or h")
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Seconds, E> {
                Seconds::new(Duration::from_secs(seconds))
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Seconds, E> {
                self.visit_u64(seconds.try_into().map_err(E::custom)?)
            }

            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Seconds, E> {
                Seconds::new(Duration::try_from_secs_f64(seconds).map_err(E::custom)?)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Seconds, E> {
                Seconds::new(values::duration(text).map_err(E::custom)?)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A number, or text such as `512M`.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one with K, M, G or T")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Size, E> {
                number.try_into().map(Size).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                crate::parse_size(text).map(Size).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A word of the interface, by its spelling.
struct Word<E>(E, PhantomData<E>);

impl<'de, E: Spelled> Deserialize<'de> for Word<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let word = E::from_spelling(&text).map(|word| Self(word, PhantomData));
        word.ok_or_else(|| D::Error::custom(unknown::<E>(&text)))
    }
}

fn unknown<E: Spelled>(text: &str) -> impl Display {
    let words: Vec<_> = E::TABLE.iter().map(|(_, word)| *word).collect();
    format!("'{text}' is none of {}", words.join(", "))
}

fn raw<E: Spelled + Into<i32>>(word: Option<Word<E>>) -> i32 {
    word.map_or(0, |Word(word, _)| word.into())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{json, v1::Vm};

    fn specs(text: &str) -> Vec<Spec> {
        read(text, Path::new("/srv")).unwrap()
    }

    fn refused(text: &str) -> String {
        read(text, Path::new("/srv")).unwrap_err()
    }

    /// A machine with everything that can be said of one.
    const FULL: &str = "
- name: web
  memory_bytes: 512M
  vcpus: 2
  kernel: vmlinuz
  initrd: /boot/initrd.img
  cmdline: console=ttyS0
  serial_socket: web.sock
  qmp_socket: web.qmp
  cpu_model: portable
  cpu_template: t.json
  cpu_pins: [{vcpu: 0, host_cpus: [1, 2]}]
  cpu_weight: 50
  cpu_limit_millis: 1500
  disks:
  - {path: a.img, read_only: true, serial: s, rerror: stop, werror: ignore, format: raw, queues: 2, aio: threads,
     rate_limit: {bps: 10M, bps_burst: 1, iops: 500, iops_burst: 2}}
  nets:
  - {tap: tap0, mac: '52:54:00:AB:00:01', mtu: 9000, queues: 2, link_down: true, tx_rate_limit: {bps: 1K}}
  - passt: p.sock
  rng: true
  vsock: {cid: 3, path: v.sock}
  balloon: {size_bytes: 256M, stats_interval_seconds: 5, deflate_on_oom: true, free_page_reporting: true}
  console_ports: [{name: org.x, path: x.sock, console: true}]
  virtio_transport: pci
  actions: {reboot: shutdown, panic: pause}
  labels: {env: prod, example.com/tier: '1'}
  restart: {mode: on-failure, max: 5, backoff: 250ms, max_backoff: 2m}
  paused: true
";

    /// What is printed of a machine can be read again: the fields have the same names.
    #[test]
    fn names_are_those_of_the_output() {
        let [spec] = specs(FULL).try_into().unwrap();
        assert!(spec.paused);
        let vm = Vm {
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            definition: Some(spec.definition.clone()),
            ..Default::default()
        };
        let Value::Object(mut printed) = json::vm(&vm) else {
            unreachable!("a machine is an object");
        };
        assert_eq!(printed.get("memory_bytes").unwrap(), 512 << 20);
        assert_eq!(printed.get("kernel").unwrap(), "/srv/vmlinuz");
        assert_eq!(printed.get("initrd").unwrap(), "/boot/initrd.img");
        assert_eq!(printed.get("labels").unwrap()["env"], "prod");
        assert_eq!(printed.get("restart").unwrap()["backoff"], 0.25);
        // What is not of its definition.
        for name in [
            "id",
            "state",
            "running",
            "phase",
            "seq",
            "vm_seq",
            "etag",
            "create_time",
            "actions",
            "end",
            "restarts",
            "next_start_time",
            "start_time",
        ] {
            printed.remove(name);
        }
        assert!(
            printed
                .values()
                .all(|value| !value.is_null() || value == &printed["firmware"])
        );
        let again = specs(&serde_json::to_string(&[printed]).unwrap());
        let actions = spec.definition.actions;
        let mut expected = spec;
        (expected.definition.actions, expected.paused) = (None, false);
        assert_eq!(again, [expected]);
        let shown = json::actions(&actions.unwrap());
        assert_eq!(
            shown.to_string(),
            r#"{"reboot":"shutdown","shutdown":null,"panic":"pause","watchdog":null}"#
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let unknown = refused("- name: a\n- name: b\n  memmory: 1\n");
        assert!(
            unknown.contains("memmory") && unknown.contains("line 3"),
            "{unknown}"
        );
        let deep = refused("- name: a\n  disks:\n  - path: x\n    readonly: true\n");
        assert!(
            deep.contains("readonly") && deep.contains("line 4"),
            "{deep}"
        );
        let word = refused("- name: a\n  actions:\n    panic: poweroff\n");
        assert!(
            word.contains("'poweroff' is none of shutdown, pause") && word.contains("line 3"),
            "{word}"
        );
        let size = refused("- name: a\n  memory_bytes: 1.5G\n");
        assert!(
            size.contains("K, M, G or T") && size.contains("line 2"),
            "{size}"
        );
        let time = refused("- name: a\n  restart: {mode: always, backoff: 1d}\n");
        assert!(
            time.contains("ms, s, m or h") && time.contains("line 2"),
            "{time}"
        );
        assert!(refused("- name: a\n  restart: {max: 5}\n").contains("mode"));
        assert!(
            refused("- name: a\n  restart: {mode: always, backoff: -1.5}\n").contains("negative")
        );
        assert!(refused("- name: a\n  labels: {env: a, env: b}\n").contains("env"));
        assert!(refused("- vcpus: 1\n").contains("name"));
        assert!(refused("- name: a\n  name: b\n").contains("name"));
        assert!(refused("web: {}\n").contains("line 1"));
        assert_eq!(
            refused("- name: a\n- name: a\n"),
            "there are two machines called 'a'"
        );
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        let policy = |time: &str| {
            let text = format!("- name: a\n  restart: {{mode: always, backoff: {time}}}");
            let [spec] = specs(&text).try_into().unwrap();
            let policy = spec.definition.restart.unwrap();
            assert_eq!(policy.mode(), RestartMode::Always);
            assert_eq!((policy.max_restarts, policy.max_backoff), (0, None));
            let time = policy.initial_backoff.unwrap();
            (time.seconds, time.nanos)
        };
        assert_eq!(policy("90"), (90, 0));
        assert_eq!(policy("1.5"), (1, 500_000_000));
        assert_eq!(policy("2m"), (120, 0));
        assert_eq!(policy("'20ms'"), (0, 20_000_000));
    }

    #[test]
    fn nothing_is_a_list_of_nothing() {
        assert_eq!(specs(""), []);
        assert_eq!(specs("# none\n[]\n"), []);
    }
}
