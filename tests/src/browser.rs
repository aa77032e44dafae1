//! A real browser: headless Chromium, driven through its driver over WebDriver as Debian packages both.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::wait::{until, within};

/// What keys are called in WebDriver.
pub mod keys {
    pub const TAB: &str = "\u{e004}";
    pub const ENTER: &str = "\u{e007}";
    pub const SPACE: &str = " ";
}

/// An open browser window.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: PathBuf,
}

/// As what the window shows itself to pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Browser {
    /// Starts one; `WAYPOINT_CHROMEDRIVER` is the driver.
    pub async fn start() -> Browser {
        let program = std::env::var("WAYPOINT_CHROMEDRIVER")
            .expect("WAYPOINT_CHROMEDRIVER: see `make test-page`");
        let mut driver = Command::new(program)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let (found, port) = oneshot::channel();
        std::thread::spawn(move || {
            let mut found = Some(found);
            // What it says later must not fill its pipe.
            for line in lines.map_while(Result::ok) {
                let port = line
                    .split("successfully on port ")
                    .nth(1)
                    .unwrap_or_default();
                if let Ok(port) = port.trim_end_matches('.').parse::<u16>()
                    && let Some(found) = found.take()
                {
                    let _ = found.send(port);
                }
            }
        });
        let port = within("the driver's port", port).await.unwrap();
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let profile =
            std::env::temp_dir().join(format!("waypoint-browser-{}-{number}", std::process::id()));
        let arguments = [
            "--headless=new".to_owned(),
            // Tests of a container run as root, where Chromium's own sandbox can't be.
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let mut browser = Browser {
            driver,
            port,
            session: String::new(),
            profile,
        };
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = browser.call(Method::POST, "/session", &wanted).await;
        let id = made["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("/session/{id}");
        browser
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let calling = async {
            let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
            tokio::spawn(connection);
            let body = match method {
                Method::GET | Method::DELETE => String::new(),
                _ => body.to_string(),
            };
            let request = Request::builder()
                .method(&method)
                .uri(path)
                .header(header::HOST, format!("127.0.0.1:{}", self.port))
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let answer = response.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<Value>(&answer).unwrap()
        };
        // Its first start takes long on a busy machine.
        let answer = tokio::time::timeout(Duration::from_secs(120), calling);
        let mut answer = answer.await.expect("the driver answers");
        let value = answer["value"].take();
        let error = &value["error"];
        assert!(error.is_null(), "{path} {body}: {value:#}");
        value
    }

    async fn of_session(&self, path: &str, body: Value) -> Value {
        let path = format!("{}{path}", self.session);
        self.call(Method::POST, &path, &body).await
    }

    async fn cdp(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.of_session("/goog/cdp/execute", body).await
    }

    /// Pages see this screen from now on.
    pub async fn screen(&self, screen: Screen) {
        let size = json!({
            "width": screen.width, "height": screen.height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if screen.dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.cdp("Emulation.setEmulatedMedia", features).await;
    }

    pub async fn open(&self, url: &str) {
        self.of_session("/url", json!({"url": url})).await;
    }

    /// What a script returns; `arguments` are its `arguments`.
    pub async fn script(&self, script: &str, arguments: Value) -> Value {
        let body = json!({"script": script, "args": arguments});
        self.of_session("/execute/sync", body).await
    }

    /// The text of the first element that the selector finds, as it is seen; empty: there is none.
    pub async fn text(&self, selector: &str) -> String {
        let script = "
            const found = document.querySelector(arguments[0]);
            return found?.innerText ?? found?.textContent ?? ''";
        let text = self.script(script, json!([selector])).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text has all of these in it, and returns it.
    pub async fn until_text(&self, selector: &str, parts: &[&str]) -> String {
        let mut last = String::new();
        let wanted = format!("{selector} with {parts:?}");
        let found = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                last = self.text(selector).await;
                if parts.iter().all(|part| last.contains(part)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let found = found.await;
        assert!(found.is_ok(), "no {wanted}, but: {last}");
        last
    }

    /// Presses keys, to whatever has the focus.
    pub async fn press(&self, keys: &[&str]) {
        let actions: Vec<Value> = keys
            .iter()
            .flat_map(|key| {
                let kind = |kind: &str| json!({"type": kind, "value": key});
                [kind("keyDown"), kind("keyUp")]
            })
            .collect();
        let body = json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]});
        self.of_session("/actions", body).await;
    }

    /// Types a text, to whatever has the focus.
    pub async fn write(&self, text: &str) {
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        self.press(&letters).await;
    }

    /// Presses Tab until a script says that the right element has the focus.
    pub async fn tab_to(&self, is_it: &str) {
        for _ in 0..200 {
            self.press(&[keys::TAB]).await;
            let script = format!("const it = document.activeElement; return Boolean({is_it})");
            if self.script(&script, json!([])).await == true {
                return;
            }
        }
        panic!("Tab never comes to {is_it}");
    }

    pub async fn url(&self) -> String {
        let path = format!("{}/url", self.session);
        let url = self.call(Method::GET, &path, &Value::Null).await;
        url.as_str().unwrap_or_default().to_owned()
    }

    /// Every address that the page has asked for.
    pub async fn asked(&self) -> Vec<String> {
        let script = "return performance.getEntriesByType('resource').map((one) => one.name)";
        let asked = self.script(script, json!([])).await;
        serde_json::from_value(asked).unwrap()
    }

    /// What the browser complained of since the last question: errors, and what a policy forbade.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.of_session("/se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().cloned().unwrap_or_default();
        let bad = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        bad.map(|entry| entry["message"].to_string()).collect()
    }

    /// The window as a picture, in a folder that `WAYPOINT_SCREENSHOTS` names, if it does.
    pub async fn picture(&self, name: &str) {
        let Ok(folder) = std::env::var("WAYPOINT_SCREENSHOTS") else {
            return;
        };
        let path = format!("{}/screenshot", self.session);
        let picture = self.call(Method::GET, &path, &Value::Null).await;
        let engine = base64::engine::general_purpose::STANDARD;
        let bytes = engine.decode(picture.as_str().unwrap()).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), bytes).unwrap();
    }

    /// Ends it.
    pub async fn close(self) {
        let path = self.session.clone();
        self.call(Method::DELETE, &path, &Value::Null).await;
        let profile = self.profile.clone();
        until("the profile to be gone", async || {
            let _ = std::fs::remove_dir_all(&profile);
            (!profile.exists()).then_some(())
        })
        .await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
