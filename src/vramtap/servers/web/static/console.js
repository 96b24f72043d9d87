// The screen of one target: noVNC's RFB client. It reconnects, and says why when it is not connected.

import RFB from "../novnc/core/rfb.js";
import { fetchTargets, socketUrl } from "./server.js";

const TARGET_ENDED = 4000; // close code, see websocket.py
const TRY_AGAIN_LATER = 1013; // close code for too many viewers (registered with IANA)
const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 10;
const STEADY_S = 5; // after this time connected, the wait before a retry starts again at FIRST_WAIT_S

const ended = (why) => ({ state: "ended", short: "target ended", what: "The target has ended", why });

export class Console {
    /**
     * @param {HTMLElement} stage Element that holds the screen.
     * @param {{n: number, url: string, input: boolean}} target The target as /api/targets describes it.
     * @param {() => void} onConnected Called after each connection.
     */
    constructor(stage, target, onConnected) {
        this._stage = stage;
        this._target = target;
        this._onConnected = onConnected;
        this._state = document.getElementById("state");
        this._ghost = document.getElementById("ghost");
        this._notice = document.getElementById("notice");
        this._rfb = null;
        this._ended = null;
        this._fit = true;
        this._wait_s = FIRST_WAIT_S;
        this._timer = null;
        this._steady = null;
        document.getElementById("again").addEventListener("click", () => this._retry());
        // A hidden page does not retry. When it becomes visible or the network is back, it retries at once.
        document.addEventListener("visibilitychange", () => this._retryIfWaiting());
        window.addEventListener("online", () => this._retryIfWaiting());
    }

    start() {
        this._stage.classList.toggle("fit", this._fit);
        this._connect();
    }

    get fit() {
        return this._fit;
    }

    set fit(fit) {
        this._fit = fit;
        this._stage.classList.toggle("fit", fit);
        if (this._rfb) {
            this._rfb.scaleViewport = fit;
        }
        this.focus();
    }

    focus() {
        this._rfb?.focus({ preventScroll: true });
    }

    sendCtrlAltDel() {
        this._rfb?.sendCtrlAltDel();
        this.focus();
    }

    async toggleFullScreen() {
        if (document.fullscreenElement) {
            await document.exitFullscreen();
        } else {
            await this._stage.requestFullscreen();
            // In browsers with keyboard lock, Escape and other keys reach the guest. Holding Escape leaves full screen.
            await navigator.keyboard?.lock?.().catch(() => {});
        }
        this.focus();
    }

    _connect() {
        this._showState("connecting", "connecting");
        // noVNC does not pass on the close code and reason, so this class makes the socket itself.
        const socket = new WebSocket(socketUrl(`/t/${this._target.n}/websockify`));
        socket.addEventListener("close", (event) => this._keepPicture(event));
        const rfb = new RFB(this._stage, socket, { shared: true });
        rfb.background = "transparent";
        rfb.scaleViewport = this._fit;
        rfb.viewOnly = !this._target.input;
        rfb.showDotCursor = true;
        rfb.addEventListener("connect", () => this._connected());
        rfb.addEventListener("disconnect", () => this._disconnected());
        rfb.addEventListener("credentialsrequired", () => rfb.disconnect());
        this._rfb = rfb;
        this._closed = {};
        const canvas = this._liveCanvas();
        canvas?.setAttribute("role", "application");
        canvas?.setAttribute("aria-label", `Screen of ${this._target.url}`);
    }

    _connected() {
        this._ended = null;
        this._showState("connected", "connected");
        this._notice.hidden = true;
        this._ghost.hidden = true;
        this._steady = setTimeout(() => { this._wait_s = FIRST_WAIT_S; }, STEADY_S * 1000);
        this.focus();
        this._onConnected();
    }

    /** Keep the last picture, dimmed, until the next connection. */
    _keepPicture(event) {
        this._closed = event;
        const canvas = this._liveCanvas();
        if (canvas?.width && this._steady !== null) {
            this._ghost.width = canvas.width;
            this._ghost.height = canvas.height;
            this._ghost.getContext("2d").drawImage(canvas, 0, 0);
            this._ghost.hidden = false;
        }
    }

    async _disconnected() {
        clearTimeout(this._steady);
        this._steady = null;
        this._rfb = null;
        const { code, reason } = this._closed;
        if (code === TARGET_ENDED) {
            this._ended = reason;
            this._wait(ended(reason));
        } else if (code === TRY_AGAIN_LATER) {
            this._wait({ state: "waiting", short: "busy", what: "The server is busy", why: reason });
        } else {
            this._wait(await this._obstacle() ?? { state: "waiting", short: "disconnected", what: "The connection was lost", why: reason });
        }
    }

    /** Return why this page cannot connect, as a state to show; null if it can. */
    async _obstacle() {
        const answer = await fetchTargets();
        if (answer.refused !== undefined) {
            return { state: "refused", short: "refused", what: "The server refuses this page", why: answer.refused };
        }
        if (answer.targets === undefined && this._ended !== null) {
            return ended(`${this._ended}; vramtap has stopped too`);
        }
        if (answer.targets === undefined) {
            return { state: "waiting", short: "server gone", what: "The server is gone", why: "vramtap does not answer at this address" };
        }
        const target = answer.targets[this._target.n];
        if (target === undefined) {
            return { state: "waiting", short: "no target", what: "The server no longer has this target", why: "" };
        }
        return target.ended === null ? null : ended(target.ended);
    }

    /** Show why the page is not connected, and retry after a wait that doubles each time. */
    _wait({ state, short, what, why }) {
        this._showState(state, short);
        this._notice.hidden = false;
        document.getElementById("notice-what").textContent = what;
        document.getElementById("notice-why").textContent = why ?? "";
        const next = document.getElementById("notice-next");
        const until = performance.now() + this._wait_s * 1000;
        this._wait_s = Math.min(LONGEST_WAIT_S, this._wait_s * 2);
        const countDown = () => {
            const left_ms = until - performance.now();
            if (document.hidden) {
                this._timer = setTimeout(countDown, LONGEST_WAIT_S * 1000);
            } else if (left_ms <= 0) {
                this._retry();
            } else {
                next.textContent = `retry in ${Math.ceil(left_ms / 1000)} s`;
                this._timer = setTimeout(countDown, Math.min(left_ms, 1000));
            }
        };
        countDown();
    }

    /** Retry. It asks the API first, because a failed WebSocket gives no reason. */
    async _retry() {
        if (this._timer === null) {
            return;
        }
        clearTimeout(this._timer);
        this._timer = null;
        document.getElementById("notice-next").textContent = "connecting …";
        const obstacle = await this._obstacle();
        if (obstacle === null) {
            this._connect();
        } else {
            this._wait(obstacle);
        }
    }

    _retryIfWaiting() {
        if (!document.hidden) {
            this._retry();
        }
    }

    _showState(state, short) {
        this._state.dataset.state = state;
        this._state.textContent = short;
    }

    _liveCanvas() {
        return this._stage.querySelector("canvas:not(.ghost)");
    }
}
