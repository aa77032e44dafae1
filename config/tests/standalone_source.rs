//! The standalone source on a real file system: changes, half-written folders, broken files, ConfigMap links.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use waypoint_config::resource::ResourceType;
use waypoint_config::standalone::{
    LoadError, ObjectName, Pace, Polled, Severity, StandaloneSource, Translation, Watch, difference,
};

const GATEWAY: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}";

/// A folder that goes away with its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "waypoint-source-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn source(&self) -> StandaloneSource {
        StandaloneSource::new(vec![self.0.clone()], None)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, labels: {{istio.io/use-waypoint: waypoint}}}}, spec: {{clusterIP: 10.0.0.1, ports: [{{name: http, port: 80}}]}}}}\n"
    )
}

fn clusters(translation: &Translation) -> Vec<&str> {
    let clusters = translation
        .resources
        .iter()
        .filter(|r| r.kind == ResourceType::Cluster);
    clusters
        .map(|r| r.name.as_str())
        .filter(|name| name.starts_with("inbound-vip"))
        .collect()
}

/// A watch and its clock.
struct Watched {
    watch: Watch,
    now: Instant,
}

/// A file that is the same for so long is settled.
const QUIET: Duration = Duration::from_secs(1);

impl Watched {
    fn of(source: StandaloneSource) -> Watched {
        Watched {
            watch: source.watch(Pace::of(QUIET)),
            now: Instant::now(),
        }
    }

    /// Goes on from what was loaded, as a process does.
    fn started(source: StandaloneSource) -> Watched {
        let now = Instant::now();
        let (_, watch) = source.start(Pace::of(QUIET), now).unwrap();
        Watched { watch, now }
    }

    fn look_after(&mut self, time: Duration) -> Option<Polled> {
        self.now += time;
        self.watch.poll(self.now)
    }

    fn poll(&mut self) -> Option<Polled> {
        self.look_after(QUIET)
    }

    /// What two looks show: the settled state.
    fn settle(&mut self) -> Option<Polled> {
        assert!(self.poll().is_none(), "one look must not count");
        self.poll()
    }

    fn translation(&mut self) -> Translation {
        let polled = self.settle().unwrap();
        assert_eq!(polled.not_in_use, []);
        polled.translation.unwrap()
    }

    fn error(&mut self) -> LoadError {
        let mut polled = self.settle().unwrap();
        assert_eq!(polled.not_in_use.len(), 1);
        polled.not_in_use.remove(0)
    }
}

#[test]
fn a_change_counts_when_two_looks_agree() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("b.yaml", &service("one"));
    folder.write("notes.txt", "not yaml: [");
    folder.write(".hidden.yaml", "not yaml: [");
    let mut watch = Watched::of(folder.source());
    let first = watch.translation();
    assert_eq!(
        clusters(&first),
        ["inbound-vip|80|http|one.default.svc.cluster.local"]
    );
    assert!(watch.poll().is_none());

    folder.write("c.yaml", &service("two"));
    assert!(watch.poll().is_none());
    folder.write("c.yaml", &service("three"));
    assert!(watch.poll().is_none(), "it changed again in between");
    let second = watch.poll().unwrap().translation.unwrap();
    let update = difference(&first.resources, &second.resources);
    let added: Vec<_> = update
        .added
        .iter()
        .map(|r| (r.kind, r.name.as_str()))
        .collect();
    let name = "inbound-vip|80|http|three.default.svc.cluster.local";
    assert_eq!(
        added,
        [
            (ResourceType::Cluster, name),
            (ResourceType::Endpoints, name),
            (ResourceType::Listener, "main_internal")
        ]
    );
    assert!(update.removed.is_empty());

    fs::remove_file(folder.0.join("c.yaml")).unwrap();
    let third = watch.translation();
    assert_eq!(
        third.resources, first.resources,
        "equal manifests must give equal bytes"
    );
    assert_eq!(
        difference(&second.resources, &third.resources)
            .removed
            .len(),
        2
    );
}

#[test]
fn broken_is_not_absent() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("b.yaml", &service("one"));
    let mut watch = Watched::of(folder.source());
    watch.translation();

    folder.write("b.yaml", "kind: [");
    let error = watch.error();
    assert_eq!(
        (error.file.as_path(), error.document),
        (folder.0.join("b.yaml").as_path(), Some(1))
    );
    assert!(watch.poll().is_none(), "an error is told once");

    folder.write("b.yaml", &service("one").replace("port: 80", "port: y"));
    let error = watch.error();
    assert_eq!(error.resource.as_deref(), Some("Service default/one"));
    assert_eq!(error.field.as_deref(), Some("spec.ports[0].port"));

    fs::write(folder.0.join("b.yaml"), [0xff, 0xfe]).unwrap();
    assert!(watch.error().reason.contains("UTF-8"));

    fs::remove_file(folder.0.join("b.yaml")).unwrap();
    symlink("nowhere", folder.0.join("b.yaml")).unwrap();
    watch.error();

    // Nothing was lost meanwhile, so nothing changes.
    fs::remove_file(folder.0.join("b.yaml")).unwrap();
    folder.write("b.yaml", &service("one"));
    let polled = watch.settle().unwrap();
    assert!(polled.translation.is_none() && polled.not_in_use.is_empty());

    // Nothing at all is not an empty configuration.
    fs::remove_file(folder.0.join("a.yaml")).unwrap();
    fs::remove_file(folder.0.join("b.yaml")).unwrap();
    watch.error();
    fs::remove_dir(&folder.0).unwrap();
    watch.error();
}

#[test]
fn a_mounted_config_map_is_followed() {
    let folder = Folder::new();
    let version = |name: &str, text: &str| {
        fs::create_dir(folder.0.join(name)).unwrap();
        fs::write(folder.0.join(name).join("mesh.yaml"), text).unwrap();
    };
    version("..1", &format!("{GATEWAY}\n---\n{}", service("one")));
    symlink("..1", folder.0.join("..data")).unwrap();
    symlink("..data/mesh.yaml", folder.0.join("mesh.yaml")).unwrap();
    let mut watch = Watched::of(folder.source());
    assert_eq!(
        clusters(&watch.translation()),
        ["inbound-vip|80|http|one.default.svc.cluster.local"]
    );

    version("..2", &format!("{GATEWAY}\n---\n{}", service("two")));
    symlink("..2", folder.0.join("..tmp")).unwrap();
    fs::rename(folder.0.join("..tmp"), folder.0.join("..data")).unwrap();
    assert_eq!(
        clusters(&watch.translation()),
        ["inbound-vip|80|http|two.default.svc.cluster.local"]
    );
}

const POLICY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: guard}, spec: SPEC}";
const TARGET: &str =
    "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]";

#[test]
fn a_broken_guard_forbids_the_start_and_closes_while_running() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("b.yaml", &service("one"));
    let mut watch = Watched::of(folder.source());
    watch.translation();

    folder.write(
        "p.yaml",
        &POLICY.replace("SPEC", &format!("{{{TARGET}, rulez: []}}")),
    );
    let error = folder.source().load().unwrap_err();
    assert_eq!(
        error.resource.as_deref(),
        Some("AuthorizationPolicy default/guard")
    );
    assert_eq!(error.field.as_deref(), Some("spec.rulez"));
    let closed = watch.translation();
    assert_eq!(closed.problems[0].severity, Severity::Broken);
    assert!(
        main_internal(&closed)
            .contains("waypoint: closed by AuthorizationPolicy default/guard: spec.rulez")
    );

    // Nothing tells what it guards.
    folder.write("p.yaml", &POLICY.replace("SPEC", "{targetRefz: []}"));
    assert!(folder.source().load().is_err());
    watch.error();

    // Sound, and nobody can be asked: both start and run, and deny what the rules match.
    let custom = format!("{{{TARGET}, action: CUSTOM, provider: {{name: x}}, rules: [{{}}]}}");
    folder.write("p.yaml", &POLICY.replace("SPEC", &custom));
    let denies = "-deny-due-to-bad-CUSTOM-action";
    assert!(main_internal(&folder.source().load().unwrap()).contains(denies));
    assert!(main_internal(&watch.translation()).contains(denies));
}

fn main_internal(translation: &Translation) -> String {
    let listener = translation
        .resources
        .iter()
        .find(|resource| resource.name == "main_internal");
    let listener = listener
        .filter(|resource| resource.kind != ResourceType::Cluster)
        .or_else(|| {
            translation
                .resources
                .iter()
                .find(|r| r.kind == ResourceType::Listener && r.name == "main_internal")
        });
    String::from_utf8_lossy(&listener.unwrap().body).into_owned()
}

#[test]
fn the_gateway_must_be_told_when_there_are_several() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("b.yaml", &GATEWAY.replace("name: waypoint", "name: second"));
    let error = folder.source().load().unwrap_err();
    assert!(
        error.reason.contains("default/second, default/waypoint"),
        "{error}"
    );
    let source = StandaloneSource {
        gateway: Some(ObjectName::new("default", "second")),
        ..folder.source()
    };
    assert_eq!(source.load().unwrap().gateway.name, "second");
    let missing = StandaloneSource {
        paths: vec![Path::new("/nowhere/x.yaml").into()],
        ..folder.source()
    };
    assert!(missing.load().is_err());
}

const LOOK: Duration = Duration::from_millis(250);

/// The names of services in force, and of files that are named, after each look of some seconds in which
/// `between` happens before each look.
fn looks(
    watch: &mut Watched,
    seconds: u32,
    mut between: impl FnMut(u32),
) -> Vec<(Duration, Vec<String>, Vec<String>)> {
    let began = watch.now;
    let mut found = Vec::new();
    for look in 0..seconds * 4 {
        between(look);
        if let Some(polled) = watch.look_after(LOOK) {
            let named = polled.not_in_use.iter();
            let named = named
                .map(|e| e.file.file_name().unwrap().to_string_lossy().into_owned())
                .collect();
            let names = polled.translation.iter().flat_map(|t| clusters(t));
            let names = names.map(|name| name.split('|').nth(3).unwrap());
            let names = names
                .map(|name| name.split('.').next().unwrap().to_owned())
                .collect();
            found.push((watch.now - began, names, named));
        }
    }
    found
}

#[test]
fn what_is_settled_is_in_force_whatever_another_file_does() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("busy.yaml", &service("busy"));
    folder.write("gone.yaml", &service("gone"));
    let mut watch = Watched::started(folder.source());
    let churn = |look: u32| {
        let text = format!("{}# {look}\n", service("busy"));
        folder.write("busy.yaml", &text);
    };
    // Nothing is new, but one file never rests: it is named, and what it said stays.
    let found = looks(&mut watch, 4, churn);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&*found[0].1, &*found[0].2),
        (&[][..], &["busy.yaml".to_owned()][..])
    );

    folder.write("new.yaml", &service("new"));
    fs::remove_file(folder.0.join("gone.yaml")).unwrap();
    let found = looks(&mut watch, 4, churn);
    assert_eq!(found.len(), 1, "{found:?}");
    let (after, names, named) = &found[0];
    assert!(*after <= Duration::from_secs(2), "{after:?}");
    assert_eq!(
        (&**names, &**named),
        (
            &["busy".to_owned(), "new".to_owned()][..],
            &["busy.yaml".to_owned()][..]
        )
    );

    // At rest it is taken, and no longer named.
    folder.write("busy.yaml", &service("calm"));
    let found = looks(&mut watch, 4, |_| {});
    let (_, names, named) = found.last().unwrap();
    assert_eq!(**names, ["calm".to_owned(), "new".to_owned()]);
    assert!(named.is_empty());
}

#[test]
fn half_a_file_is_never_taken_while_it_grows() {
    let folder = Folder::new();
    let whole = format!(
        "{}---\n{}---\n{}",
        service("one"),
        service("two"),
        service("three")
    );
    folder.write("a.yaml", GATEWAY);
    folder.write("list.yaml", &whole);
    let mut watch = Watched::started(folder.source());
    looks(&mut watch, 2, |_| {});
    // Some of the prefixes are good YAML of fewer services. Others come and go meanwhile.
    let new = whole.replace("three", "drei");
    let found = looks(&mut watch, 10, |look| {
        let end = (new.len() * look as usize / 36).min(new.len());
        folder.write("list.yaml", &new[..end]);
        if look % 7 == 0 {
            folder.write("other.yaml", &service(&format!("other{look}")));
        }
    });
    for (_, names, _) in &found {
        let whole = names.contains(&"three".to_owned()) || names.contains(&"drei".to_owned());
        assert!(
            names.is_empty() || (whole && names.contains(&"two".to_owned())),
            "{found:?}"
        );
    }
    assert!(
        found
            .iter()
            .filter(|(_, names, _)| !names.is_empty())
            .count()
            > 2,
        "{found:?}"
    );
    let found = looks(&mut watch, 4, |_| {});
    assert!(
        found.last().unwrap().1.contains(&"drei".to_owned()),
        "{found:?}"
    );
}

#[test]
fn a_broken_file_is_named_and_costs_no_other() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("b.yaml", &service("one"));
    let mut watch = Watched::started(folder.source());
    looks(&mut watch, 2, |_| {});
    folder.write("b.yaml", "kind: [");
    folder.write("c.yaml", &service("two"));
    folder.write("d.yaml", &service("three").replace("port: 80", "port: y"));
    symlink("nowhere", folder.0.join("e.yaml")).unwrap();
    let found = looks(&mut watch, 4, |_| {});
    assert_eq!(found.len(), 1, "{found:?}");
    let (after, names, named) = &found[0];
    assert!(*after <= Duration::from_secs(2), "{after:?}");
    assert_eq!(**names, ["one".to_owned(), "two".to_owned()]);
    let mut named = named.clone();
    named.sort();
    assert_eq!(named, ["b.yaml", "d.yaml", "e.yaml"]);
}

#[test]
fn a_file_that_was_away_for_a_moment_is_not_changed() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    fs::create_dir(folder.0.join("real")).unwrap();
    fs::write(folder.0.join("real/b.yaml"), service("one")).unwrap();
    symlink("real/b.yaml", folder.0.join("b.yaml")).unwrap();
    let mut watch = Watched::started(folder.source());
    looks(&mut watch, 2, |_| {});
    let found = looks(&mut watch, 6, |look| match look {
        3 => fs::remove_file(folder.0.join("b.yaml")).unwrap(),
        4 => symlink("real/b.yaml", folder.0.join("b.yaml")).unwrap(),
        _ => {}
    });
    assert_eq!(found, []);
}

#[test]
fn a_file_that_is_replaced_is_never_absent() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("b.yaml", &service("one"));
    let mut watch = Watched::started(folder.source());
    looks(&mut watch, 2, |_| {});
    // Away for one look, as with an editor that writes a new file.
    let found = looks(&mut watch, 6, |look| match look {
        3 => fs::remove_file(folder.0.join("b.yaml")).unwrap(),
        4 => folder.write("b.yaml", &service("two")),
        10 => {
            folder.write(".b.new", &service("three"));
            fs::rename(folder.0.join(".b.new"), folder.0.join("b.yaml")).unwrap();
        }
        _ => {}
    });
    let names: Vec<_> = found.iter().map(|(_, names, _)| names.join(",")).collect();
    assert_eq!(names, ["two", "three"]);
}
