// A curve of the last minute.

const SECONDS = 60;

export class Spark {
    constructor(canvas) {
        this._canvas = canvas;
        this._values = new Array(SECONDS).fill(0);
        new ResizeObserver(() => this._draw()).observe(canvas);
    }

    push(value) {
        const drawn = this._values.some((one) => one > 0);
        this._values.shift();
        this._values.push(value);
        if (drawn || value > 0) {
            this._draw(); // an empty curve stays as it is
        }
    }

    _draw() {
        const ratio = devicePixelRatio || 1;
        const width = this._canvas.clientWidth;
        const height = this._canvas.clientHeight;
        this._canvas.width = Math.round(width * ratio);
        this._canvas.height = Math.round(height * ratio);
        const context = this._canvas.getContext("2d");
        context.scale(ratio, ratio);
        // The square root keeps a blinking cursor visible next to a scrolling screen.
        const top = Math.sqrt(Math.max(16, ...this._values));
        const x = (index) => (index / (SECONDS - 1)) * width;
        const y = (value) => height - 1.5 - (Math.sqrt(value) / top) * (height - 4);
        context.beginPath();
        this._values.forEach((value, index) => context.lineTo(x(index), y(value)));
        context.strokeStyle = "#4fb3a5";
        context.lineWidth = 1.25;
        context.lineJoin = "round";
        context.stroke();
        context.lineTo(width, height);
        context.lineTo(0, height);
        context.closePath();
        context.fillStyle = "rgb(79 179 165 / 16%)";
        context.fill();
    }
}
