// The statistics line under the screen. It is connected only while the page is visible.

import { Spark } from "./spark.js";
import { socketUrl } from "./server.js";

const RETRY_S = 10; // pause before the next connection; a reconnecting screen connects this line sooner
const SILENCE_S = 12; // the server sends a heartbeat every 5 s

const counts = new Intl.NumberFormat("en");

/** Format a rate: 0 B/s, 812 B/s, 4.1 kB/s, 120 MB/s. */
export function bytes(count) {
    for (const unit of ["B", "kB", "MB"]) {
        if (count < 1000) {
            return `${count < 10 && unit !== "B" ? count.toFixed(1) : Math.round(count)} ${unit}/s`;
        }
        count /= 1000;
    }
    return `${count.toFixed(1)} GB/s`;
}

/** Format a time: 7 µs, 1.4 ms. */
export function micros(count) {
    return count < 1000 ? `${count} µs` : `${(count / 1000).toFixed(1)} ms`;
}

export class Live {
    constructor(line, target) {
        this._line = line;
        this._target = target;
        this._spark = new Spark(document.getElementById("spark"));
        this._fields = {};
        this._socket = null;
        this._received = 0;
        this._ticker = null;
        this._retry = null;
    }

    start() {
        document.addEventListener("visibilitychange", () => this.update());
        this.update();
    }

    /** Connect if the page is visible, disconnect if it is not. */
    update() {
        if (document.hidden) {
            this._disconnect();
        } else if (this._socket === null) {
            this._connect();
        }
    }

    _connect() {
        clearTimeout(this._retry);
        this._retry = null;
        const socket = new WebSocket(socketUrl(`/api/stats?t=${this._target.n}`));
        this._socket = socket;
        this._received = performance.now();
        socket.addEventListener("message", (event) => this._receive(JSON.parse(event.data)));
        socket.addEventListener("close", () => {
            if (this._socket === socket) {
                this._disconnect();
                if (!document.hidden) {
                    this._retry = setTimeout(() => this.update(), RETRY_S * 1000);
                }
            }
        });
        this._ticker = setInterval(() => this._tick(), 1000);
    }

    _disconnect() {
        clearInterval(this._ticker);
        clearTimeout(this._retry);
        this._retry = null;
        const socket = this._socket;
        this._socket = null;
        socket?.close();
        this._line.classList.add("stale");
    }

    _tick() {
        if (performance.now() - this._received > SILENCE_S * 1000) {
            this._socket.close();
            return;
        }
        this._spark.push(this._fields.pages_s ?? 0);
    }

    _receive(changed) {
        this._received = performance.now();
        Object.assign(this._fields, changed);
        this._line.classList.remove("stale");
        const show = {
            mode: (text) => this._set("live-mode", text),
            tracker: (text) => this._set("live-tracker", text),
            why: (text) => { document.getElementById("live-why").title = text; },
            scan_us: (count) => this._set("live-scan", micros(count)),
            pages_s: (count) => this._set("live-pages", `${counts.format(count)} pages/s`),
            bytes_s: (count) => this._set("live-bytes", bytes(count)),
            updates_s: (count) => this._set("live-updates", `${counts.format(count)}/s`),
            viewers: (count) => this._set("live-viewers", counts.format(count)),
        };
        for (const [name, value] of Object.entries(changed)) {
            show[name]?.(value);
        }
    }

    _set(id, text) {
        document.getElementById(id).textContent = text;
    }
}
