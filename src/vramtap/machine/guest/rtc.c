/* Real-time clock: a periodic tick, an update each second, the time of day (MC146818A data sheet). */
#include "rtc.h"

#include "boot.h"
#include "io.h"

enum rtc {
    RTC_SECONDS = 0x00,
    RTC_MINUTES = 0x02,
    RTC_HOURS = 0x04,
    RTC_A = 0x0A,
    RTC_B = 0x0B,
    RTC_C = 0x0C,
};
#define A_UPDATING 0x80u
#define A_DIVIDER_32768 0x20u
#define B_24_HOURS 0x02u
#define B_BINARY 0x04u
#define B_UPDATE_INTERRUPT 0x10u
#define B_PERIODIC_INTERRUPT 0x40u
#define UPDATE_POLLS 1000

static uint8_t rtc_read(uint8_t index)
{
    outb(PORT_RTC_INDEX, index);
    return inb(PORT_RTC_DATA);
}

static void rtc_write(uint8_t index, uint8_t value)
{
    outb(PORT_RTC_INDEX, index);
    outb(PORT_RTC_DATA, value);
}

/* Return rate bits RS3..RS0: 32768 Hz >> (RS - 1), for RS from 3 on. */
static uint8_t rate_of(uint32_t hz)
{
    uint8_t rate = 16;
    for (; hz > 1; hz >>= 1)
        rate--;
    return rate;
}

void rtc_start(uint32_t hz, bool seconds)
{
    rtc_write(RTC_A, (uint8_t)(A_DIVIDER_32768 | rate_of(hz)));
    rtc_write(RTC_B, B_24_HOURS | B_PERIODIC_INTERRUPT | (seconds ? B_UPDATE_INTERRUPT : 0));
    rtc_flags();
}

void rtc_stop(void)
{
    rtc_write(RTC_B, B_24_HOURS);
    rtc_flags();
}

uint8_t rtc_flags(void)
{
    return rtc_read(RTC_C) & (RTC_PERIODIC | RTC_UPDATED);
}

static uint8_t number_of(uint8_t value, bool binary, uint8_t bound)
{
    uint8_t number = binary ? value : (uint8_t)((value >> 4) * 10 + (value & 15));
    return number < bound ? number : 0;
}

struct time rtc_time(void)
{
    for (int i = 0; i < UPDATE_POLLS && (rtc_read(RTC_A) & A_UPDATING); i++)
        ;
    bool binary = rtc_read(RTC_B) & B_BINARY;
    return (struct time){
        number_of(rtc_read(RTC_HOURS), binary, 24),
        number_of(rtc_read(RTC_MINUTES), binary, 60),
        number_of(rtc_read(RTC_SECONDS), binary, 60),
    };
}
