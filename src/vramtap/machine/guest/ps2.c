/* Keyboard and mouse behind the i8042: turns scan codes into characters and motions. */
#include "ps2.h"

#include <stdint.h>

#include "boot.h"
#include "io.h"

#define STATUS_FULL 0x01u
#define STATUS_INPUT_FULL 0x02u
#define STATUS_FROM_MOUSE 0x20u
#define COMMAND_READ_CONFIG 0x20u
#define COMMAND_WRITE_CONFIG 0x60u
#define COMMAND_MOUSE_ON 0xA8u
#define COMMAND_TO_MOUSE 0xD4u
#define CONFIG_RAISE_BOTH 0x03u
#define CONFIG_CLOCKS_OFF 0x30u
#define CONFIG_TRANSLATE 0x40u
#define MOUSE_REPORT 0xF4u
#define POLLS 10000

/* Scan code set 1. */
#define SCAN_RELEASED 0x80u
#define SCAN_EXTENDED 0xE0u
#define SCAN_PAUSE 0xE1u
#define SCAN_LEFT_SHIFT 0x2Au
#define SCAN_RIGHT_SHIFT 0x36u
#define SCAN_CAPS_LOCK 0x3Au
#define SCAN_SLASH 0x35u
#define SCAN_ENTER 0x1Cu
#define PAUSE_REST 2

/* First byte of a mouse packet. */
#define MOUSE_LEFT 0x01u
#define MOUSE_ALWAYS 0x08u
#define MOUSE_X_SIGN 0x10u
#define MOUSE_Y_SIGN 0x20u
#define MOUSE_OVERFLOW 0xC0u

/* Characters of a US keyboard by scan code; the keypad as with Num Lock. */
static const char plain[] = "\0\0"
                            "1234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 \0"
                            "\0\0\0\0\0\0\0\0\0\0\0\0"
                            "789-456+1230.\0\0\\";
static const char shifted[] = "\0\0"
                              "!@#$%^&*()_+\b\tQWERTYUIOP{}\n\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 \0"
                              "\0\0\0\0\0\0\0\0\0\0\0\0"
                              "789-456+1230.\0\0|";
_Static_assert(sizeof plain == 0x58 && sizeof shifted == 0x58, "codes 0x00 to 0x56, and the end");

static bool shift, caps, extended;
static int skip;
static uint8_t packet[3];
static int packet_length;

static void send(uint16_t port, uint8_t value)
{
    for (int i = 0; i < POLLS && (inb(PORT_PS2_STATUS) & STATUS_INPUT_FULL); i++)
        ;
    outb(port, value);
}

/* Return a byte of an answer; 0 if none comes. */
static uint8_t answer(void)
{
    for (int i = 0; i < POLLS; i++)
        if (inb(PORT_PS2_STATUS) & STATUS_FULL)
            return inb(PORT_PS2_DATA);
    return 0;
}

void ps2_start(void)
{
    send(PORT_PS2_STATUS, COMMAND_MOUSE_ON);
    send(PORT_PS2_STATUS, COMMAND_READ_CONFIG);
    uint8_t config = answer();
    config = (uint8_t)((config | CONFIG_RAISE_BOTH | CONFIG_TRANSLATE) & ~CONFIG_CLOCKS_OFF);
    send(PORT_PS2_STATUS, COMMAND_WRITE_CONFIG);
    send(PORT_PS2_DATA, config);
    send(PORT_PS2_STATUS, COMMAND_TO_MOUSE);
    send(PORT_PS2_DATA, MOUSE_REPORT);
    answer();
}

static char character_of(uint8_t code)
{
    if (extended)
        return code == SCAN_ENTER ? '\n' : code == SCAN_SLASH ? '/' : 0;
    if (code >= sizeof plain - 1)
        return 0;
    bool letter = plain[code] >= 'a' && plain[code] <= 'z';
    return shift != (caps && letter) ? shifted[code] : plain[code];
}

static struct ps2_event key(uint8_t byte)
{
    struct ps2_event event = {PS2_NOTHING, 0, 0, 0, false};
    uint8_t code = byte & (uint8_t)~SCAN_RELEASED;
    bool released = byte & SCAN_RELEASED;
    if (skip) {
        skip--;
        return event;
    }
    if (byte == SCAN_EXTENDED) {
        extended = true;
        return event;
    }
    if (byte == SCAN_PAUSE)
        skip = PAUSE_REST;
    /* E0 2A and the like come along with extended keys and are no shift keys. */
    else if (!extended && (code == SCAN_LEFT_SHIFT || code == SCAN_RIGHT_SHIFT))
        shift = !released;
    else if (!extended && byte == SCAN_CAPS_LOCK)
        caps = !caps;
    else if (!released && (event.character = character_of(code)))
        event.kind = PS2_CHARACTER;
    extended = false;
    return event;
}

static struct ps2_event mouse(uint8_t byte)
{
    struct ps2_event event = {PS2_NOTHING, 0, 0, 0, false};
    if (packet_length == 0 && !(byte & MOUSE_ALWAYS))
        return event; /* not the first byte of a packet: skip it */
    packet[packet_length++] = byte;
    if (packet_length < 3)
        return event;
    packet_length = 0;
    event.kind = PS2_MOUSE;
    event.left_button = packet[0] & MOUSE_LEFT;
    if (!(packet[0] & MOUSE_OVERFLOW)) {
        event.right = packet[1] - (packet[0] & MOUSE_X_SIGN ? 256 : 0);
        event.down = -(packet[2] - (packet[0] & MOUSE_Y_SIGN ? 256 : 0));
    }
    return event;
}

struct ps2_event ps2_next(void)
{
    for (;;) {
        uint8_t status = inb(PORT_PS2_STATUS);
        /* All ones: there is no controller. */
        if (!(status & STATUS_FULL) || status == 0xFF)
            return (struct ps2_event){PS2_NOTHING, 0, 0, 0, false};
        uint8_t byte = inb(PORT_PS2_DATA);
        struct ps2_event event = status & STATUS_FROM_MOUSE ? mouse(byte) : key(byte);
        if (event.kind != PS2_NOTHING)
            return event;
    }
}
