//! The standalone source on a real file system: changes, half-written folders, broken files, ConfigMap links.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use waypoint_config::resource::ResourceType;
use waypoint_config::standalone::{
    ObjectName, Severity, StandaloneSource, Translation, Watch, difference,
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

/// The watch after two polls: the settled state.
fn settle(
    watch: &mut Watch,
) -> Option<Result<Translation, waypoint_config::standalone::LoadError>> {
    assert!(watch.poll().is_none(), "one scan must not count");
    watch.poll()
}

#[test]
fn a_change_counts_when_two_scans_agree() {
    let folder = Folder::new();
    folder.write("a.yaml", GATEWAY);
    folder.write("b.yaml", &service("one"));
    folder.write("notes.txt", "not yaml: [");
    folder.write(".hidden.yaml", "not yaml: [");
    let mut watch = folder.source().watch();
    let first = settle(&mut watch).unwrap().unwrap();
    assert_eq!(
        clusters(&first),
        ["inbound-vip|80|http|one.default.svc.cluster.local"]
    );
    assert!(watch.poll().is_none());

    folder.write("c.yaml", &service("two"));
    assert!(watch.poll().is_none());
    folder.write("c.yaml", &service("three"));
    assert!(watch.poll().is_none(), "it changed again in between");
    let second = watch.poll().unwrap().unwrap();
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
    let third = settle(&mut watch).unwrap().unwrap();
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
    let mut watch = folder.source().watch();
    settle(&mut watch).unwrap().unwrap();

    folder.write("b.yaml", "kind: [");
    let error = settle(&mut watch).unwrap().unwrap_err();
    assert_eq!(
        (error.file.as_path(), error.document),
        (folder.0.join("b.yaml").as_path(), Some(1))
    );
    assert!(watch.poll().is_none(), "an error is told once");

    folder.write("b.yaml", &service("one").replace("port: 80", "port: y"));
    let error = settle(&mut watch).unwrap().unwrap_err();
    assert_eq!(error.resource.as_deref(), Some("Service default/one"));
    assert_eq!(error.field.as_deref(), Some("spec.ports[0].port"));

    fs::write(folder.0.join("b.yaml"), [0xff, 0xfe]).unwrap();
    assert!(
        settle(&mut watch)
            .unwrap()
            .unwrap_err()
            .reason
            .contains("UTF-8")
    );

    fs::remove_file(folder.0.join("b.yaml")).unwrap();
    symlink("nowhere", folder.0.join("b.yaml")).unwrap();
    assert!(settle(&mut watch).unwrap().is_err());

    fs::remove_file(folder.0.join("b.yaml")).unwrap();
    folder.write("b.yaml", &service("one"));
    assert_eq!(clusters(&settle(&mut watch).unwrap().unwrap()).len(), 1);

    // Nothing at all is not an empty configuration.
    fs::remove_file(folder.0.join("a.yaml")).unwrap();
    fs::remove_file(folder.0.join("b.yaml")).unwrap();
    assert!(settle(&mut watch).unwrap().is_err());
    fs::remove_dir(&folder.0).unwrap();
    assert!(settle(&mut watch).unwrap().is_err());
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
    let mut watch = folder.source().watch();
    assert_eq!(
        clusters(&settle(&mut watch).unwrap().unwrap()),
        ["inbound-vip|80|http|one.default.svc.cluster.local"]
    );

    version("..2", &format!("{GATEWAY}\n---\n{}", service("two")));
    symlink("..2", folder.0.join("..tmp")).unwrap();
    fs::rename(folder.0.join("..tmp"), folder.0.join("..data")).unwrap();
    assert_eq!(
        clusters(&settle(&mut watch).unwrap().unwrap()),
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
    let mut watch = folder.source().watch();
    settle(&mut watch).unwrap().unwrap();

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
    let closed = settle(&mut watch).unwrap().unwrap();
    assert_eq!(closed.problems[0].severity, Severity::Broken);
    assert!(
        main_internal(&closed)
            .contains("waypoint: closed by AuthorizationPolicy default/guard: spec.rulez")
    );

    // Nothing tells what it guards.
    folder.write("p.yaml", &POLICY.replace("SPEC", "{targetRefz: []}"));
    assert!(folder.source().load().is_err());
    assert!(settle(&mut watch).unwrap().is_err());

    // Sound, but not honoured: both start and run closed.
    let custom = format!("{{{TARGET}, action: CUSTOM, provider: {{name: x}}, rules: [{{}}]}}");
    folder.write("p.yaml", &POLICY.replace("SPEC", &custom));
    assert!(main_internal(&folder.source().load().unwrap()).contains("closed by"));
    assert!(main_internal(&settle(&mut watch).unwrap().unwrap()).contains("closed by"));
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
